"""How far a run is, in steps and in words.

A *step* is an optimizer step: Lightning's `global_step`, and the unit of `trainer.max_steps`, `warmup_steps` and
`checkpoint.every_n_steps`. Several batches may make one (`trainer.accumulate_grad_batches`), or one batch several
(`inner_epochs` of EG-RL). The curves of a log are drawn over batches that led to a step.
"""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Trainer


def steps_per_batch(module: Any) -> int:
    """Optimizer steps that a module makes of a batch; at least 1: accumulated batches make less, and count as 1."""
    return max(1, int(getattr(module, "steps_per_batch", 1)))


def total_steps(trainer: Trainer) -> int | None:
    """Optimizer steps of the whole run, up to the end of its last batch; None if it has no known end.

    Args:
        trainer: The trainer, its training loader set up.
    """
    each = steps_per_batch(trainer.lightning_module)
    batches = trainer.estimated_stepping_batches  # by epochs and accumulation; at most `max_steps`, for one step each
    if batches < 0 or not math.isfinite(batches):
        return None
    if trainer.max_steps == -1:
        return int(batches) * each
    return min(int(batches), math.ceil(trainer.max_steps / each)) * each


def curve_step(step: int, module: Any) -> int:
    """Batches that have led to steps: where pictures and histograms stand beside the curves of the same moment.

    Args:
        step: Optimizer steps so far.
        module: The module in training.
    """
    return step // steps_per_batch(module)


def duration(seconds: float) -> str:
    """A duration with its two largest units, such as `3 h 05 min`.

    >>> duration(9.6), duration(75), duration(11100), duration(200000)
    ('10 s', '1 min 15 s', '3 h 05 min', '2 d 07 h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def figure(value: float) -> str:
    """A number in a few characters.

    >>> figure(0.33333), figure(1234.5), figure(0.00012), figure(0)
    ('0.333', '1234.500', '1.2e-04', '0.000')
    """
    return f"{value:.3f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.1e}"
