"""The report of an evaluation: a table, `report.json` with everything, `scores.json` in the form of the leaderboard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
        storage: How an index would store the vectors: `name`, `bytes` of a vector and so on; empty if nobody asked.
        stored_means: The averages of the stored vectors.
    """

    benchmark: str
    sets: tuple[SetResult, ...]
    means: Mapping[str, float | None]
    missing: Mapping[str, str]
    model: Mapping[str, Any]
    storage: Mapping[str, Any] = field(default_factory=dict)
    stored_means: Mapping[str, float | None] = field(default_factory=dict)


def make_report(
    benchmark: str,
    sets: Sequence[SetResult],
    absent: Mapping[str, str],
    model: Mapping[str, Any],
    storage: Mapping[str, Any] | None = None,
) -> Report:
    """Average, and list what is missing.

    Args:
        benchmark: Name of the benchmark; the averages of one that is not public are the mean of its data sets.
        sets: The data sets that were scored.
        absent: Why data sets could not be scored, by name.
        model: Everything but the data that the vectors depend on.
        storage: How an index would store the vectors; None if nobody asked.
    """
    scores = {result.name: result.score for result in sets}
    means = _averages(benchmark, scores, absent)
    missing = dict(absent)
    if benchmark in BENCHMARKS:
        missing = {name: absent.get(name, "not asked for") for name in public.missing(benchmark, scores)}
    if storage is None:
        return Report(benchmark, tuple(sets), means, missing, dict(model))
    stored = {result.name: value for result in sets if (value := result.stored_score) is not None}
    return Report(
        benchmark, tuple(sets), means, missing, dict(model), dict(storage), _averages(benchmark, stored, absent)
    )


def _averages(benchmark: str, scores: Mapping[str, float], absent: Mapping[str, str]) -> dict[str, float | None]:
    if benchmark in BENCHMARKS:
        return public.averages(benchmark, scores)
    return {"mean": None if absent or not scores else sum(scores.values()) / len(scores)}


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
    storage = [report.storage["vectors"], "change"] if report.storage else []
    for name in ("data set", "metric", "score", *storage, "k=1", "k=5", "k=10", "Δs", "queries", "candidates"):
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
            *_stored(report, result.score, result.stored_score),
            *(_percent(result.metrics[f"{family}@{k}"]) for k in (1, 5, 10)),
            "" if result.delta_s is None else f"{result.delta_s:.3f}",
            str(result.queries),
            str(result.candidates),
            *(_published(other.sets, result.name) for other in beside),
        )
    table.add_section()
    for name, mean in report.means.items():
        stored = _stored(report, mean, report.stored_means.get(name))
        row = [f"[bold]{name}[/bold]", "mean", _percent(mean), *stored, *[""] * 6]
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
    lines = [_storage_note(report.storage)] if report.storage else []
    for result in report.sets:
        best = result.optimistic[result.main_metric]
        if best != result.score:
            lines.append(f"{result.name}: ties: {_percent(best)} with ties in favour of what is relevant")
        if (stored := result.stored_optimistic.get(result.main_metric)) != result.stored_score:
            what = report.storage["vectors"]
            lines.append(f"{result.name}: ties of {what}: {_percent(stored)} with ties in favour of what is relevant")
        if tokens := result.tcots.get("tokens"):
            sides = result.tcots["cached"] + result.tcots["written"]
            lines.append(f"{result.name}: {tokens:,} tokens of T-CoTs, {tokens / sides:.0f} a side")
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


def _stored(report: Report, exact: float | None, stored: float | None) -> list[str]:
    """The cells of a figure of the stored vectors, and how far it is from that of the exact ones."""
    if not report.storage:
        return []
    return [_percent(stored), "–" if exact is None or stored is None else f"{100 * (stored - exact):+.1f}"]


def _storage_note(storage: Mapping[str, Any]) -> str:
    smaller = storage["float32_bytes"] / storage["bytes"]
    note = f"{storage['name']}: {storage['bytes']} bytes a vector, {smaller:.4g} times fewer than whole float32 vectors"
    shorter = 4 * storage["dim"] < storage["float32_bytes"]
    return f"{note}; the model names no shorter lengths" if shorter and not storage["listed_dims"] else note


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _published(figures: Mapping[str, float], name: str) -> str:
    return f"{figures[name]:.1f}" if name in figures else "–"


def _write_json(path: Path, content: Any) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False))
