"""The report of an evaluation: a table, `report.json` with everything, `scores.json` in the form of the leaderboard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from embedrl.evaluation import averages as public
from embedrl.evaluation.published import Published
from embedrl.evaluation.results import SetResult
from embedrl.evaluation.table import BENCHMARKS
from embedrl.utils.atomic_files import replacing
from embedrl.utils.console import make_console

REPORT, SCORES, QUERIES = "report.json", "scores.json", "queries"


@dataclass(frozen=True)
class Submission:
    """The description of the model in `scores.json`.

    Attributes:
        model_name: Its name.
        model_backbone: The base model that it was trained from.
        model_size: Number of parameters, such as `2B`.
        model_release_date: When it was published.
        data_source: Who computed the figures.
        url: Where to read about it.
    """

    model_name: str = ""
    model_backbone: str = ""
    model_size: str = ""
    model_release_date: str = ""
    data_source: str = "self-reported"
    url: str = ""


@dataclass(frozen=True)
class Report:
    """An evaluation.

    Attributes:
        benchmark: Name of the benchmark.
        sets: The data sets that were scored.
        means: The benchmark's averages; None where a data set is missing.
        missing: The data sets without a score, and why.
        model: Everything but the data that the vectors depend on.
    """

    benchmark: str
    sets: tuple[SetResult, ...]
    means: Mapping[str, float | None]
    missing: Mapping[str, str]
    model: Mapping[str, Any]


def make_report(
    benchmark: str, sets: Sequence[SetResult], absent: Mapping[str, str], model: Mapping[str, Any]
) -> Report:
    """Average, and list what is missing.

    Args:
        benchmark: Name of the benchmark; the averages of one that is not public are the mean of its data sets.
        sets: The data sets that were scored.
        absent: Why data sets could not be scored, by name.
        model: Everything but the data that the vectors depend on.
    """
    scores = {result.name: result.score for result in sets}
    if benchmark in BENCHMARKS:
        means = public.averages(benchmark, scores)
        missing = {name: absent.get(name, "not asked for") for name in public.missing(benchmark, scores)}
    else:
        complete = not absent and bool(scores)
        means = {"mean": sum(scores.values()) / len(scores) if complete else None}
        missing = dict(absent)
    return Report(benchmark, tuple(sets), means, missing, dict(model))


def write_report(out: Path, report: Report, submission: Submission, dimension: int, max_length: int | None) -> None:
    """Write `report.json` and `scores.json`.

    Args:
        out: The folder.
        report: The evaluation.
        submission: The description of the model.
        dimension: Length of a vector.
        max_length: Longest input in tokens, if the backbone has such a limit.
    """
    by_group: dict[str, dict[str, Any]] = {}
    for result in report.sets:
        data = result.expected_queries or result.queries
        figures = {**result.metrics, "num_pred": result.queries, "num_data": data}
        by_group.setdefault(result.group.partition("/")[0], {})[result.name] = figures
    scores = {
        "metadata": {
            **asdict(submission),
            "embedding_dimension": dimension,
            "max_length_tokens": max_length,
            "report_generated_date": datetime.now(UTC).isoformat(timespec="seconds"),
            "benchmark": report.benchmark,
            "versions": {result.name: result.version for result in report.sets},
            "missing": sorted(report.missing),
        },
        "metrics": by_group,
    }
    _write_json(out / REPORT, asdict(report))
    _write_json(out / SCORES, scores)


def read_report(folder: Path) -> Report:
    """Read what `write_report` wrote.

    Raises:
        OSError: If there is none.
        ValueError, TypeError, KeyError: If it is broken.
    """
    saved = json.loads((folder / REPORT).read_text())
    saved["sets"] = tuple(SetResult(**result) for result in saved["sets"])
    return Report(**saved)


def print_report(report: Report, beside: Sequence[Published] = (), console: Console | None = None) -> None:
    """Print the figures by group and overall, beside published ones, and what is missing.

    Args:
        report: The evaluation.
        beside: Published figures of other models, printed beside.
        console: Where to print.
    """
    console = console or make_console()
    table = Table(title=f"{report.benchmark}, percent; ties pessimistic", title_justify="left")
    for name in ("data set", "metric", "score", "k=1", "k=5", "k=10", "Δs", "queries", "candidates"):
        table.add_column(name, justify="left" if name in ("data set", "metric") else "right")
    for other in beside:
        table.add_column(other.model, justify="right")
    group = None
    for result in report.sets:
        if result.group != group:
            group = result.group
            table.add_section()
            table.add_row(f"[bold]{group}[/bold]")
        family = result.main_metric.partition("@")[0]
        table.add_row(
            result.name,
            result.main_metric,
            _percent(result.score),
            *(_percent(result.metrics[f"{family}@{k}"]) for k in (1, 5, 10)),
            "" if result.delta_s is None else f"{result.delta_s:.3f}",
            str(result.queries),
            str(result.candidates),
            *(_published(other.sets, result.name) for other in beside),
        )
    table.add_section()
    for name, mean in report.means.items():
        row = [f"[bold]{name}[/bold]", "mean", _percent(mean), *[""] * 6]
        table.add_row(*row, *(_published(other.means, name) for other in beside))
    console.print(table)
    for line in report_notes(report):
        console.print(line, highlight=False, markup=False)
    for other in beside:
        console.print(f"{other.model}: {other.source} (data {other.version})", highlight=False, markup=False)
        for name, what in other.errata.items():
            console.print(f"  {name}: {what}", highlight=False, markup=False)


def report_notes(report: Report) -> list[str]:
    """What a reader of the figures must know: ties, sides left raw, rows left out, data sets that are missing."""
    lines = []
    for result in report.sets:
        best = result.optimistic[result.main_metric]
        if best != result.score:
            lines.append(f"{result.name}: ties: {_percent(best)} with ties in favour of what is relevant")
        if result.raw_sides:
            total = result.queries + result.candidates
            lines.append(f"{result.name}: {result.raw_sides} of {total} sides had no T-CoT and were embedded raw")
        for cause, count in result.skipped.items():
            if count:
                lines.append(f"{result.name}: left out: {count} {cause}")
        if result.expected_queries not in (None, result.queries):
            lines.append(f"{result.name}: {result.queries} queries, the public data have {result.expected_queries}")
    if report.missing:
        lines.append(f"missing: {len(report.missing)} data sets; an average that needs one of them is not given:")
        lines += [f"  {name}: {why}" for name, why in report.missing.items()]
    return lines


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _published(figures: Mapping[str, float], name: str) -> str:
    return f"{figures[name]:.1f}" if name in figures else "–"


def _write_json(path: Path, content: Any) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False))
