"""`embedrl compare`: two evaluations of the same data, query by query. Source: Embed-RL Fig. 4, Fig. 5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from numpy.typing import NDArray
from rich.table import Table

from embedrl.errors import ConfigError, DataError, unreadable
from embedrl.evaluation.compare_plots import plot_delta_s, plot_evidence
from embedrl.evaluation.report import QUERIES, REPORT, Report, read_report
from embedrl.evaluation.results import SetResult
from embedrl.utils.console import make_console
from embedrl.utils.file_names import file_name

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """How two evaluations differ on one data set.

    Attributes:
        name: The data set.
        first: Its main metric in the first evaluation, mean over queries.
        second: That in the second.
        low: Lower end of the interval of `second - first`.
        high: Upper end.
        better: Queries on which the second scores higher.
        worse: Queries on which it scores lower.
    """

    name: str
    first: float
    second: float
    low: float
    high: float
    better: int
    worse: int


def compare(
    first: Path,
    second: Path,
    out: Path | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    different_sets: Literal["raise", "common"] = "raise",
) -> None:
    """Compare two evaluations: differences per data set with confidence intervals, plots of Δs and of evidence.

    The interval is a paired bootstrap: queries are drawn with replacement, each with its scores in both evaluations.

    Args:
        first: Folder of an evaluation, as `embedrl eval --out` wrote it.
        second: Folder of the other; differences are its figures minus the first's.
        out: Where the two pictures go; None means `compare_<first's name>` in the second's folder.
        confidence: Probability that the interval covers the difference.
        resamples: How many times the queries are drawn.
        seed: Seed of the draws.
        different_sets: Data sets that only one of the two scored: `raise`, or compare those in `common`.

    Raises:
        ConfigError: If a flag is out of range, or the two were scored on different data.
        DataError: If a folder holds no finished evaluation.
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise ConfigError(f"--confidence {confidence}, --resamples {resamples}: give 0..1, and 1 or more")
    reports = load(first), load(second)
    names = common_sets(first, second, *reports, different_sets)
    before, after = ({r.name: r for r in report.sets} for report in reports)
    scores = [(scores_of(first, name, "score"), scores_of(second, name, "score")) for name in names]
    for name in names:
        _same_queries(first, second, name)
    draws = [bootstrap(a, b, resamples, np.random.default_rng([seed, i])) for i, (a, b) in enumerate(scores)]
    differences = [
        difference(name, a, b, drawn, confidence) for name, (a, b), drawn in zip(names, scores, draws, strict=True)
    ]
    mean = _mean(differences, np.mean(draws, axis=0), confidence)
    folder = out or second / f"compare_{first.resolve().name}"
    folder.mkdir(parents=True, exist_ok=True)
    labels = _labels(first, second)
    gaps = [np.concatenate([scores_of(place, name, "delta_s") for name in names]) for place in (first, second)]
    plot_delta_s(folder / "delta_s.png", [g[~np.isnan(g)] for g in gaps], labels)
    plot_evidence(folder / "evidence.png", [[side[name] for name in names] for side in (before, after)], labels)
    _print(differences, mean, [before[name] for name in names], labels, confidence)
    wrote = f"Wrote {folder / 'delta_s.png'} and {folder / 'evidence.png'}"
    make_console().print(wrote, highlight=False, soft_wrap=True)


def load(folder: Path) -> Report:
    """The report of a finished evaluation.

    Raises:
        DataError: If there is none, or it is broken.
    """
    if not (folder / REPORT).is_file():
        raise DataError(
            f"{folder}: no finished evaluation (no {REPORT}); give a folder that `embedrl eval --out` wrote"
        )
    with unreadable(f"{folder / REPORT}: broken", "run `embedrl eval` again"):
        return read_report(folder)


def common_sets(
    first: Path, second: Path, before: Report, after: Report, different_sets: Literal["raise", "common"]
) -> list[str]:
    """The data sets to compare, those of one version and content alone.

    Raises:
        ConfigError: If the benchmarks, the sets or their data differ.
    """
    if before.benchmark != after.benchmark:
        raise ConfigError(f"{first} is of {before.benchmark}, {second} of {after.benchmark}: nothing to compare")
    a, b = ({r.name: r for r in report.sets} for report in (before, after))
    alone = sorted(a.keys() ^ b.keys())
    if alone and different_sets == "raise":
        raise ConfigError(
            f"only one of {first} and {second} has scored {', '.join(alone)}: score the same data sets, "
            "or give --different_sets common"
        )
    names = [name for name in a if name in b]
    if not names:
        raise ConfigError(f"{first} and {second} have no data set in common")
    for name in names:
        for what in ("version", "main_metric", "data_hash"):
            one, other = getattr(a[name], what), getattr(b[name], what)
            if one != other:
                raise ConfigError(
                    f"{name}: {what} is {one} in {first} and {other} in {second}: figures on different data "
                    "cannot be compared; score both on the same data"
                )
    return names


def bootstrap(first: Values, second: Values, resamples: int, rng: np.random.Generator) -> Values:
    """Means of `second - first` over queries drawn with replacement, `[resamples]`.

    Args:
        first: Score of each query in the first evaluation.
        second: Those in the second, in the same order.
        resamples: How many times to draw.
        rng: Source of randomness.
    """
    gaps = second - first
    values, counts = np.unique(gaps, return_counts=True)
    # Drawing n queries equals drawing how often each distinct difference occurs.
    drawn = rng.multinomial(len(gaps), counts / len(gaps), size=resamples)
    means: Values = drawn @ values / len(gaps)
    return means


def difference(name: str, first: Values, second: Values, drawn: Values, confidence: float) -> Difference:
    """The difference on one data set, with its percentile interval.

    Args:
        name: The data set.
        first: Score of each query in the first evaluation.
        second: Those in the second.
        drawn: What `bootstrap` returned.
        confidence: Probability that the interval covers the difference.
    """
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    gaps = second - first
    return Difference(
        name,
        float(first.mean()),
        float(second.mean()),
        float(low),
        float(high),
        int((gaps > 0).sum()),
        int((gaps < 0).sum()),
    )


def _mean(differences: Sequence[Difference], drawn: Values, confidence: float) -> Difference:
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    first, second = (float(np.mean([getattr(d, side) for d in differences])) for side in ("first", "second"))
    return Difference(
        "mean",
        first,
        second,
        float(low),
        float(high),
        sum(d.better for d in differences),
        sum(d.worse for d in differences),
    )


def _same_queries(first: Path, second: Path, name: str) -> None:
    ours, theirs = (_table(folder, name, "query")["query"].to_pylist() for folder in (first, second))
    if ours != theirs:
        raise ConfigError(f"{name}: {first} and {second} have other queries, or in another order: score both again")


def scores_of(folder: Path, name: str, column: str) -> Values:
    """A column of the results of every query, in the order of the queries.

    Args:
        folder: Folder of an evaluation.
        name: The data set.
        column: Name of the column, such as `score` (see `write_queries`).

    Raises:
        DataError: If there are none, or they are broken.
    """
    values: Values = _table(folder, name, column)[column].to_numpy().astype(np.float64)
    return values


def _table(folder: Path, name: str, column: str) -> Any:
    path = folder / QUERIES / f"{file_name(name)}.parquet"
    with unreadable(f"{path}: cannot be read", "run `embedrl eval` again"):
        return pq.read_table(path, columns=[column])


def _labels(first: Path, second: Path) -> tuple[str, str]:
    """Short, distinct names of the two folders."""
    ours, theirs = first.resolve().name, second.resolve().name
    return (ours, theirs) if ours != theirs else (str(first), str(second))


def _print(
    differences: Sequence[Difference],
    mean: Difference,
    sets: Sequence[SetResult],
    labels: tuple[str, str],
    confidence: float,
) -> None:
    table = Table(title=f"{labels[1]} minus {labels[0]}, percent", title_justify="left")
    for column in ("data set", "metric", *labels, "difference", f"{confidence:.0%} interval", "better", "worse"):
        table.add_column(column, justify="left" if column in ("data set", "metric") else "right")
    for row, result in [*zip(differences, sets, strict=True), (mean, None)]:
        if result is None:
            table.add_section()
        gap = f"{100 * (row.second - row.first):+.1f}"
        table.add_row(
            row.name,
            result.main_metric if result else "",
            f"{100 * row.first:.1f}",
            f"{100 * row.second:.1f}",
            gap if row.low <= 0 <= row.high else f"[bold]{gap}[/bold]",
            f"{100 * row.low:+.1f} … {100 * row.high:+.1f}",
            str(row.better),
            str(row.worse),
        )
    make_console().print(table)
