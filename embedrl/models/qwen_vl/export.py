"""What an exported Qwen3-VL holds besides weights and processor: its pixel budgets, and an adapter's row of `<emb>`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embedrl.errors import CheckpointError, ConfigError
from embedrl.models.export_options import OPTIONS_FILE
from embedrl.models.qwen_vl.loading import load_options
from embedrl.models.qwen_vl.preprocess import PixelBudget

BUDGETS = ("image_pixels", "evidence_pixels", "frame_pixels")


def load_budgets(path: str) -> dict[str, PixelBudget]:
    """The pixel budgets that an exported folder names, by the name of their option.

    Args:
        path: Any checkpoint; an adapter that names none has its base's.

    Raises:
        CheckpointError: If `embedrl_config.json` is broken.
    """
    options = load_options(path)
    try:
        return {name: PixelBudget(**options[name]) for name in BUDGETS if options.get(name) is not None}
    except (TypeError, ConfigError) as error:
        raise CheckpointError(f"{path}/{OPTIONS_FILE}: broken pixel budget ({error}): export it again") from error


def budget_options(budgets: Mapping[str, PixelBudget]) -> dict[str, Any]:
    """The budgets in the form that `load_budgets` reads; those that follow from the processor are null."""
    return {
        name: {"min_pixels": budgets[name].min_pixels, "max_pixels": budgets[name].max_pixels}
        if name in budgets
        else None
        for name in BUDGETS
    }
