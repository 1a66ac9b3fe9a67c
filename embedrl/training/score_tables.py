"""Tables of logged scores that fit a terminal."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterable, Mapping

from embedrl.training.progress import figure

WIDTH = 96
"""Characters of a line."""
COLUMN = 10
"""Characters of a figure's column; a longer name of a metric has a wider one."""
ORDER = (
    *("hit@1", "hit@5", "hit@10", "ndcg@5", "delta_s"),
    *("answer", "iou", "f1", "keyword_f1", "format", "exact", "words"),
)
"""The metrics that come first."""


def by_task(scores: Mapping[str, float], stage: str) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """The logged scores of a stage: the means over tasks, and each task's own.

    Args:
        scores: What was logged, by `<stage>/<metric>` and `<stage>/<task>/<metric>`.
        stage: `val` or `test`.
    """
    means: dict[str, float] = {}
    tasks: dict[str, dict[str, float]] = defaultdict(dict)
    for name, value in scores.items():
        if name.startswith(f"{stage}/"):
            task, _, metric = name.removeprefix(f"{stage}/").rpartition("/")
            (tasks[task] if task else means)[metric] = value
    return means, dict(tasks)


def mean_table(columns: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A row a metric and a column a validation; with two of them, one more for the change.

    Args:
        columns: The means of each validation, by its title.
    """
    first, last = next(iter(columns.values())), list(columns.values())[-1]
    titles = [*columns, "change"] if len(columns) == 2 else list(columns)
    metrics = sorted({metric for means in columns.values() for metric in means}, key=metric_rank)
    width = max(map(len, ["mean of tasks", *metrics]))
    lines = [f"  {'mean of tasks':<{width}}" + "".join(f"{title:>{_column(title)}}" for title in titles)]
    for metric in metrics:
        cells = [_cell(means.get(metric)) for means in columns.values()]
        if len(columns) == 2:
            both = metric in first and metric in last
            cells.append(f"{last[metric] - first[metric]:+.3f}" if both else "")
        cells = [f"{cell:>{_column(title)}}" for cell, title in zip(cells, titles, strict=True)]
        lines.append((f"  {metric:<{width}}" + "".join(cells)).rstrip())
    return lines


def task_tables(tasks: Mapping[str, Mapping[str, float]], title: str) -> list[str]:
    """A row a task and a column a metric; tasks that have no metric in common come in tables of their own.

    A lone task with more metrics than fit side by side is a list.

    Args:
        tasks: The scores of each task.
        title: Of the column of names.
    """
    lines: list[str] = []
    for names in _kindred(tasks):
        metrics = sorted({metric for name in names for metric in tasks[name]}, key=metric_rank)
        width = max(map(len, [title, *names]))
        parts = list(_parts(metrics, WIDTH - 2 - width))
        if len(names) == 1 and len(parts) > 1:
            cells = ", ".join(f"{metric} {figure(tasks[names[0]][metric])}" for metric in metrics)
            lines += textwrap.wrap(
                f"{names[0]}: {cells}", WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
            )
            continue
        for part in parts:
            lines.append(f"  {title:<{width}}" + "".join(f"{metric:>{_column(metric)}}" for metric in part))
            for name in names:
                cells = "".join(f"{_cell(tasks[name].get(metric)):>{_column(metric)}}" for metric in part)
                lines.append(f"  {name:<{width}}{cells}".rstrip())
    return lines


def _kindred(tasks: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """The tasks, those together that share a metric, directly or through others; the largest groups first."""
    groups: list[tuple[set[str], list[str]]] = []
    for name in sorted(tasks):
        metrics, names = set(tasks[name]), [name]
        for group in [group for group in groups if group[0] & metrics]:
            groups.remove(group)
            metrics, names = metrics | group[0], [*group[1], *names]
        groups.append((metrics, names))
    return sorted((sorted(names) for _, names in groups), key=lambda names: (len(names) == 1, names))


def _parts(metrics: list[str], width: int) -> Iterable[list[str]]:
    """The columns, as many at a time as fit."""
    part: list[str] = []
    for metric in metrics:
        if part and sum(map(_column, part)) + _column(metric) > width:
            yield part
            part = []
        part.append(metric)
    if part:
        yield part


def _column(title: str) -> int:
    return max(COLUMN, len(title) + 2)


def _cell(value: float | None) -> str:
    return "" if value is None else figure(value)


def metric_rank(metric: str) -> tuple[int, str]:
    """Where a metric comes in a table: those of `ORDER` first, then the others by name."""
    return (ORDER.index(metric) if metric in ORDER else len(ORDER), metric)
