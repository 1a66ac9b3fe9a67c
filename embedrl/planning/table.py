"""A plan as tables."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table

from embedrl.planning.rows import Assumptions
from embedrl.planning.trainings import Plan

GIB = 2**30


def show(plan: Plan, assume: Assumptions) -> Group:
    """The tables of a plan."""
    models = Table("model", "parameters", "trained", "share", title="parameters")
    for name, (every, trained) in plan.models.items():
        models.add_row(name, f"{every:,}", f"{trained:,}", f"{100 * trained / every:.2f} %")
    memory = Table(
        "on one device", "GiB", title=f"memory ({plan.devices} {'device' if plan.devices == 1 else 'devices'})"
    )
    for name, value in plan.memory.items():
        memory.add_row(name, f"{value / GIB:.2f}")
    memory.add_section()
    for name, value in plan.peaks.items():
        memory.add_row(f"peak: {name}", f"{value / GIB:.1f}")
    parts: list[Table] = [models, memory]
    if plan.flops:
        work = Table("an optimizer step, all devices", "tokens", "PFLOP", title="work")
        for name, count in plan.tokens.items():
            work.add_row(name, f"{count:,.0f}", "")
        work.add_section()
        for name, count in (plan.flops | plan.extra).items():
            work.add_row(name, "", f"{count / 1e15:,.3f}")
        seconds = plan.total_flops / plan.devices / (assume.tflops * 1e12)
        work.add_section()
        work.add_row(f"seconds at {assume.tflops:g} TFLOP/s a device", "", f"{seconds:,.1f}")
        parts.append(work)
    return Group(*parts, *plan_notes(plan, assume))


def plan_notes(plan: Plan, assume: Assumptions) -> list[str]:
    """Remarks on the figures, one line each."""
    lines = [f"note: {note}" for note in plan.notes]
    if plan.flops:
        lines.append(
            f"assumed (--assume.*): {assume.text} tokens a text, {assume.tcot} a T-CoT, {assume.instruction} an "
            f"instruction, {assume.evidence} crops or key frames, {assume.frames} frames, "
            f"{100 * assume.video_share:g} % videos, pictures at {100 * assume.fill:g} % of their budgets, "
            f"{assume.side} x {assume.side} pixels without one"
        )
    if "rollouts" in plan.flops:
        lines.append("writing is bound by memory, not by operations: rollouts take several times longer")
    return lines
