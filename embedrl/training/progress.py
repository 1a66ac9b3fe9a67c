"""How far a run is, in words: used by what reports progress."""

from __future__ import annotations

import math

from lightning.pytorch import Trainer


def total_steps(trainer: Trainer) -> int | None:
    """Optimizer steps of the whole run; None if it has no known end.

    Args:
        trainer: The trainer, its training loader set up.
    """
    if trainer.lightning_module.automatic_optimization:
        steps = trainer.estimated_stepping_batches
        return int(steps) if math.isfinite(steps) else None
    return trainer.max_steps if trainer.max_steps > 0 else None  # steps a batch are the module's own business


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
