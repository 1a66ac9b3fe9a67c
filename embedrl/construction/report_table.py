"""The report of a step as a table. Source: Embed-RL Table 5."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.table import Table

from embedrl.construction.rows import StepReport
from embedrl.utils.console import data_set_column, make_console


def print_step_report(report: StepReport, last: str) -> None:
    """Print kept pairs, initial pairs, their share, and why the others are left out.

    Args:
        report: What happened to each data set.
        last: The field that counts the pairs which the step kept.
    """
    table = Table(data_set_column(), "kept / initial", "share", "left out, by cause")
    for column in table.columns[1:3]:
        column.justify = "right"
    total: Counter[str] = Counter()
    for name, counts in report.items():
        initial, kept = int(counts.get("sampled") or counts["given"]), int(counts[last])
        causes: Counter[str] = Counter(counts["left_out"])
        total.update({"initial": initial, "kept": kept})
        table.add_row(name, f"{kept:,}/{initial:,}", _share(kept, initial), _cause_counts(causes, counts))
    table.add_section()
    table.add_row("total", f"{total['kept']:,}/{total['initial']:,}", _share(total["kept"], total["initial"]), "")
    make_console().print(table)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "-"


def _cause_counts(causes: Counter[str], counts: dict[str, Any]) -> str:
    parts = [f"{cause} {count:,}" for cause, count in causes.most_common()]
    if counts.get("unclear"):
        parts.append(f"(kept, but unclear: {counts['unclear']:,})")
    return ", ".join(parts)
