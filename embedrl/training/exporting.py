"""Writing a model as a folder that other libraries load, with its card; whole, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from embedrl.errors import ConfigError
from embedrl.models.backbone import Backbone
from embedrl.models.generator import Generator
from embedrl.training.base import TrainingModule
from embedrl.training.model_card import write_card
from embedrl.utils.atomic_files import replacing_folder


def check_new(out: Path, flag: str) -> None:
    """Refuse a folder that holds something already.

    Args:
        out: The folder.
        flag: What named it, for the error.

    Raises:
        ConfigError: If it does.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{flag} {out}: already there; give a new folder")


def write_export(
    model: Backbone | Generator,
    out: Path,
    module: TrainingModule | None = None,
    adapter: bool = False,
    figures: Mapping[str, float | int] | None = None,
) -> None:
    """Write a model.

    Args:
        model: The model, with its weights.
        out: The folder; it is there when it is whole.
        module: The module that trained it, if it is known.
        adapter: Write the LoRA adapter alone.
        figures: What is known of the training, for the card.

    Raises:
        ConfigError: If there is no adapter to write.
    """
    with replacing_folder(out) as part:
        model.export(part, merge=not adapter)
        if module is not None and not adapter:
            module.describe_export(part)
        write_card(part, model, out.name, figures)
