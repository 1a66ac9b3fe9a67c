"""`embedrl data stats`: what is in a mix, as a table and a plot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from rich.table import Table

from embedrl.construction.figures import CUES, Figures
from embedrl.construction.rows import earlier_report
from embedrl.construction.sample import equal_distances
from embedrl.data.mix import MixRow, check_labels
from embedrl.errors import ConfigError, DataError
from embedrl.types import Role
from embedrl.utils.console import data_set_column, make_console


def stats(mix: list[MixRow], out: Path | None = None, limit: int | None = None) -> None:
    """Print pairs, modalities, lengths, evidence and failures of every data set of a mix, and plot them.

    Args:
        mix: The data sets: a file with a list of {source, weight}, or the list.
        out: A picture to write (.png, .svg or .pdf); none without it.
        limit: Read this many pairs of each data set, at equal distances; null reads all.

    Raises:
        ConfigError: If an option is out of its range.
        DataError: If a report of construction cannot be read.
    """
    check_labels(mix)
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit {limit}: give 1 or more")
    if out is not None and out.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"--out {out}: give a name that ends with .png, .svg or .pdf")
    figures = [count(row, limit) for row in mix]
    console = make_console()
    console.print(pairs_table(figures), tcots_table(figures))
    causes = sum((one.failures for one in figures), Counter[str]())
    if causes:
        console.print(failures_of(causes))
    if out is not None:
        from embedrl.construction.plot import plot

        plot(figures, out)
        console.print(f"plot: {out}", highlight=False, soft_wrap=True)


def count(row: MixRow, limit: int | None = None) -> Figures:
    """Count a data set.

    Args:
        row: The data set.
        limit: Read this many of its pairs, at equal distances.

    Raises:
        DataError: If a report of construction cannot be read.
    """
    size = len(row.source)
    figures = Figures(row.label, size, failures=Counter(earlier_report(row).get("left_out") or {}))
    for index in equal_distances(range(size), min(size, limit or size)):
        try:
            pair = row.source[index]
        except DataError:
            figures.failures["broken_row"] += 1
            continue
        figures.add(pair)
    return figures


def pairs_table(figures: Sequence[Figures]) -> Table:
    """Pairs, modalities and lengths of texts, one row per data set."""
    table = Table(
        data_set_column(), "pairs", "looked at", "targets", "words", "modalities", title="pairs (query / target)"
    )
    for one in figures:
        table.add_row(
            one.name,
            f"{one.pairs:,}",
            f"{one.looked_at:,}",
            f"{len(one.targets):,}",
            _means(one.words),
            "\n".join(f"{kind} {number:,}" for kind, number in one.modalities.most_common()),
        )
    table.add_section()
    table.add_row("total", f"{sum(one.pairs for one in figures):,}")
    return table


def tcots_table(figures: Sequence[Figures]) -> Table:
    """T-CoTs and their evidence, one row per data set: means of those that were read."""
    table = Table(
        data_set_column(), "T-CoTs", "words", "well formed", *CUES.values(), title="T-CoTs (means; query / target)"
    )
    for one in figures:
        tcots = sum(map(len, one.tcot_words.values()))
        table.add_row(
            one.name,
            f"{tcots:,}",
            _means(one.tcot_words),
            f"{100 * one.well_formed / tcots:.1f} %" if tcots else "-",
            *(f"{fmean(numbers):.2f}" if numbers else "-" for numbers in one.cues.values()),
        )
    return table


def failures_of(causes: Counter[str]) -> Table:
    """Pairs left out, by cause."""
    table = Table("left out because of", "pairs")
    for cause, number in causes.most_common():
        table.add_row(cause, f"{number:,}")
    return table


def _means(numbers: dict[Role, list[int]]) -> str:
    return " / ".join(f"{fmean(values):.1f}" if values else "-" for values in numbers.values())
