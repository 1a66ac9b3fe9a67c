"""`embedrl data stats`: what is in a mix, as a table and a plot."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from rich.table import Table

from embedrl.construction.figures import CUES, Figures
from embedrl.construction.pictures import PictureCheck
from embedrl.construction.rows import earlier_report
from embedrl.construction.sample import equal_distances
from embedrl.data.mix import MixRow, check_labels
from embedrl.data.on_bad import BadSample
from embedrl.errors import ConfigError, DataError
from embedrl.types import Role
from embedrl.utils.atomic_files import replacing
from embedrl.utils.console import data_set_column, make_console

_NAMED = 5


_AHEAD = 1024
"""Pairs whose files are read at a time by several processes."""


def stats(
    mix: list[MixRow],
    out: Path | None = None,
    limit: int | None = None,
    check: bool = False,
    bad: Path = Path("bad_files.jsonl"),
    workers: int | None = None,
) -> None:
    """Print pairs, modalities, lengths, evidence and failures of every data set of a mix, and plot them.

    Rows that cannot be read and pairs whose pictures are missing are counted and named.

    Args:
        mix: The data sets: a file with a list of {source, weight}, or the list.
        out: A picture to write (.png, .svg or .pdf); none without it.
        limit: Read this many pairs of each data set, at equal distances; null reads all.
        check: Open every file, too (pictures, pages and a frame of each video are decoded), and end with an error if a
            row or a file is broken.
        bad: With `check`, the list of what is broken: JSON lines {dataset, id, cause, message}. It is written only if
            something is.
        workers: With `check`, processes that open files; null means one for each processor.

    Raises:
        ConfigError: If an option is out of its range.
        DataError: If a report of construction cannot be read, or `check` finds something broken.
    """
    check_labels(mix)
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit {limit}: give 1 or more")
    if out is not None and out.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"--out {out}: give a name that ends with .png, .svg or .pdf")
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers}: give 1 or more")
    cores = workers or len(os.sched_getaffinity(0))
    figures = [count(row, limit, check, cores) for row in mix]
    console = make_console()
    console.print(pairs_table(figures), tcots_table(figures))
    causes = sum((one.failures for one in figures), Counter[str]())
    if causes:
        console.print(failures_of(causes))
    for line in (line for one in figures for line in named(one)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if out is not None:
        from embedrl.construction.plot import plot

        plot(figures, out)
        console.print(f"plot: {out}", highlight=False, soft_wrap=True)
    broken = [sample for one in figures for sample in one.broken]
    if check and broken:
        bad.parent.mkdir(parents=True, exist_ok=True)
        with replacing(bad) as part:
            rows = (json.dumps(sample._asdict(), ensure_ascii=False) + "\n" for sample in broken)
            part.write_text("".join(rows), encoding="utf-8")
        looked_at = sum(min(one.pairs, limit or one.pairs) for one in figures)
        told = f"{len(broken)} of {looked_at} pairs cannot be used, the first: {broken[0].message}"
        raise DataError(f"{told} ({bad} names all of them)")


def count(row: MixRow, limit: int | None = None, check: bool = False, workers: int = 1) -> Figures:
    """Count a data set.

    Args:
        row: The data set.
        limit: Read this many of its pairs, at equal distances.
        check: Whether to read the pixels of pictures; else they only have to be there.
        workers: Processes that read pixels.

    Raises:
        DataError: If a report of construction cannot be read.
    """
    size = len(row.source)
    figures = Figures(row.label, size, failures=Counter(earlier_report(row).get("left_out") or {}))
    indices = iter(equal_distances(range(size), min(size, limit or size)))
    with PictureCheck(check, workers) as pictures:
        while chunk := list(itertools.islice(indices, _AHEAD)):
            pairs = []
            for index in chunk:
                try:
                    pairs.append(row.source[index])
                except DataError as error:
                    figures.leave_out(BadSample.of(error, row.label, f"row {index}"))
            pictures.look_ahead(pairs)
            for pair in pairs:
                figures.add(pair)
                cause, problem = pictures(pair)
                if cause:
                    figures.leave_out(BadSample(row.label, pair.id, cause, f"{row.label}/{pair.id}: {problem}"))
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


def named(figures: Figures) -> list[str]:
    """A line for each of the first pairs of a data set that cannot be used, and how many more there are."""
    more = len(figures.broken) - _NAMED
    return [sample.message for sample in figures.broken[:_NAMED]] + (
        [f"{figures.name}: {more:,} more like these"] if more > 0 else []
    )


def _means(numbers: dict[Role, list[int]]) -> str:
    return " / ".join(f"{fmean(values):.1f}" if values else "-" for values in numbers.values())
