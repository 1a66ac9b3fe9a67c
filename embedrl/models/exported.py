"""Exported folders: which model lies in one, and that model, loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import embedrl
from embedrl.errors import CheckpointError, ConfigError, unreadable
from embedrl.models.adapters import CONFIG_FILE as ADAPTER
from embedrl.models.backbone import Backbone
from embedrl.models.export_options import OPTIONS_FILE
from embedrl.models.generator import Generator
from embedrl.models.late_interaction import LateInteraction
from embedrl.models.late_interaction_files import is_late, read_late
from embedrl.models.open_clip.backbone import OpenClipBackbone
from embedrl.models.open_clip.config import CONFIG_FILE as OPEN_CLIP
from embedrl.models.open_clip.config import FOLDER
from embedrl.models.open_reasoner import is_qwen3_vl
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.loading import load_class
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.models.two_towers.backbone import TwoTowerBackbone
from embedrl.models.vlm.backbone import VLMBackbone
from embedrl.models.vlm.base import VisionLanguageModel
from embedrl.models.vlm.reasoner import VLMReasoner
from embedrl.utils.public_names import names_of

MODEL_FILES = ("config.json", OPEN_CLIP, ADAPTER)
"""A folder that holds one of these holds a model."""

_OF_ANY: dict[type[Any], type[Any]] = {QwenVLBackbone: VLMBackbone, QwenVLReasoner: VLMReasoner}


def exported_class(checkpoint: str) -> type[Backbone | Generator] | None:
    """The class of the model in an exported folder; None if the folder does not say.

    Args:
        checkpoint: A folder, a Hub name, or a name of a shipped checkpoint.

    Raises:
        CheckpointError: If `embedrl_config.json` is broken or names no model of embedrl's.
    """
    return LateInteraction if is_late(checkpoint) else _inner_class(checkpoint)


def _inner_class(checkpoint: str) -> type[Backbone | Generator] | None:
    """As `exported_class`; of a late-interaction Embedder the class of its vision-language model."""
    folder = Path(checkpoint).expanduser()
    if (folder / OPEN_CLIP).is_file():
        return OpenClipBackbone
    if name := load_class(checkpoint):
        short = name.removeprefix("embedrl.")
        # A folder may be a stranger's: what it names is looked up in embedrl's own list and nowhere else.
        cls = getattr(embedrl, short) if short in names_of("embedrl") else None
        if not (isinstance(cls, type) and issubclass(cls, Backbone | Generator)):
            raise CheckpointError(f"{folder / OPTIONS_FILE}: names {name}, which is no model of embedrl's")
        return cls
    return QwenVLBackbone if (folder / "modules.json").is_file() else None


def load_exported(
    cls: type[Backbone | Generator], checkpoint: str, dtype: Literal["float32", "bfloat16", "auto"] = "float32"
) -> Backbone | Generator:
    """The model with its weights, on the CPU, in evaluation mode.

    Args:
        cls: Its class; where the folder names none, that of a Qwen3-VL stands for any vision-language model.
        checkpoint: The folder, or a name that the class takes as `path`.
        dtype: Type of the weights; OpenCLIP's are float32.

    Raises:
        CheckpointError: If it cannot be read.
    """
    if issubclass(cls, LateInteraction):
        model: Backbone | Generator = _load_late(checkpoint, dtype)
    elif issubclass(cls, OpenClipBackbone):
        if not (Path(checkpoint).expanduser() / OPEN_CLIP).is_file():
            raise CheckpointError(f"{checkpoint}: an open_clip adapter alone; export it without --adapter true")
        model = cls(f"{FOLDER}{Path(checkpoint).expanduser()}")
    elif issubclass(cls, VisionLanguageModel | TwoTowerBackbone):
        general = cls in _OF_ANY and not load_class(checkpoint) and not is_qwen3_vl(checkpoint)
        family: type[Any] = _OF_ANY[cls] if general else cls
        model = family(checkpoint, dtype=dtype)
    else:
        model = cls(checkpoint)
    model.build()
    return model.eval()


def _load_late(checkpoint: str, dtype: Literal["float32", "bfloat16", "auto"]) -> LateInteraction:
    """The late-interaction Embedder of a folder, not built."""
    inner = _inner_class(checkpoint)
    if not (inner and issubclass(inner, QwenVLBackbone | VLMBackbone)):
        raise CheckpointError(f"{checkpoint}: does not say whose token vectors it gives; export the model again")
    try:
        return LateInteraction(inner(checkpoint, dtype=dtype), **read_late(checkpoint))
    except ConfigError as error:
        raise CheckpointError(f"{checkpoint}: broken options ({error}): export the model again") from error


def matryoshka_dims(backbone: Backbone) -> list[int]:
    """The shorter lengths of vectors that a model was trained for; empty if neither it nor its folder names any.

    Args:
        backbone: The model, built from a folder, a training checkpoint or anything else.

    Raises:
        CheckpointError: If the folder's configuration is broken.
    """
    if backbone.trained_dims:
        return list(backbone.trained_dims)
    place = getattr(backbone, "path", None) or getattr(backbone, "model", None)
    folder = Path(place.removeprefix(FOLDER)).expanduser() if isinstance(place, str) else Path()
    for file in (folder / "config.json", folder / OPEN_CLIP):
        if place and file.is_file():
            with unreadable(f"{file}: broken", "export the model again", CheckpointError):
                return [int(dim) for dim in json.loads(file.read_text("utf-8")).get("matryoshka_dimensions") or []]
    return []


def load_backbone(folder: str, dtype: Literal["float32", "bfloat16", "auto"] = "float32") -> Backbone:
    """The Embedder in an exported folder, with its weights, on the CPU, in evaluation mode.

    Args:
        folder: The folder; one that does not say what it is counts as a Qwen3-VL's.
        dtype: Type of the weights; OpenCLIP's are float32.

    Raises:
        CheckpointError: If it cannot be read, or holds a Reasoner.
    """
    model = load_exported(exported_class(folder) or QwenVLBackbone, folder, dtype)
    if not isinstance(model, Backbone):
        raise CheckpointError(f"{folder}: a Reasoner's, which gives no vectors; give an Embedder's")
    return model
