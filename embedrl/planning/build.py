"""A recipe's models on the meta device: all shapes, no values."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForImageTextToText

from embedrl.errors import CheckpointError, ConfigError
from embedrl.models.checkpoint_files import DTYPES
from embedrl.models.late_interaction import LateInteraction
from embedrl.models.open_clip.backbone import OpenClipBackbone
from embedrl.models.qwen_vl.backbone import QwenVL
from embedrl.models.qwen_vl.loading import is_local
from embedrl.models.two_towers.backbone import TwoTowerBackbone
from embedrl.models.vlm.backbone import AnyVLM
from embedrl.models.vlm.base import VisionLanguageModel
from embedrl.models.vlm.encoder import EncoderBackbone
from embedrl.models.vlm.families import family_of
from embedrl.models.vlm.settings import PictureSettings
from embedrl.planning.memory import Setup
from embedrl.planning.shapes import find_shape


def build_on_meta(model: nn.Module, shapes: str | None = None) -> tuple[Any, list[str]]:
    """Build a model as `build()` would, without weights.

    Args:
        model: A backbone or a Reasoner, not built.
        shapes: As for `find_shape`.

    Returns:
        The model, and notes to show.

    Raises:
        CheckpointError: If the shape of the checkpoint is not known on this machine.
        ConfigError: If the model is of another class.
    """
    if isinstance(model, OpenClipBackbone):
        arguments = {"trainable": model.trainable, "lora": model.lora, "fusion": model.fusion}
        bare = OpenClipBackbone(model.model, gradient_checkpointing=model.gradient_checkpointing, **arguments)  # type: ignore[arg-type]
        with torch.device("meta"):
            bare.build()
        return bare, []
    if isinstance(model, TwoTowerBackbone):
        model.build_on_meta()
        return model, []
    if isinstance(model, LateInteraction):
        _, notes = build_on_meta(model.backbone, shapes)
        model.head = None  # its options may have changed since the last plan
        model.build_on_meta()
        return model, notes
    if not isinstance(model, VisionLanguageModel):
        raise ConfigError(
            f"{type(model).__name__}: `embedrl plan` knows vision-language models (QwenVLBackbone, QwenVLReasoner, "
            "VLMBackbone, VLMReasoner), LateInteraction, EncoderBackbone, OpenClipBackbone and TwoTowerBackbone"
        )
    if is_local(model.path):  # with its tokenizer, so it is known whether `<emb>` needs a row more
        model.net = None  # its options may have changed since the last plan
        model.build_on_meta()
        return model, []
    config, note = find_shape(model.path, shapes)
    if isinstance(model, QwenVL) and config.model_type != "qwen3_vl":
        raise CheckpointError(f"{model.path}: model_type is {config.model_type!r}, not 'qwen3_vl': use VLMBackbone")
    if isinstance(model, AnyVLM):
        # Known from here on, so that nothing asks the Hub.
        model.family = model.family or family_of(config.model_type)
        model._stored = PictureSettings()
    dtype = DTYPES[model.dtype]
    # By default it is sdpa wherever a part can: Gemma 4's audio tower cannot, and refuses it if it is asked for.
    attention = None if model.attn_implementation == "sdpa" else model.attn_implementation
    with torch.device("meta"):
        made: Any = AutoModel if isinstance(model, EncoderBackbone) else AutoModelForImageTextToText
        network = made.from_config(config, attn_implementation=attention)
        network.to(getattr(config, "dtype", None) or torch.bfloat16 if isinstance(dtype, str) else dtype)
        model.adopt(network)
    return model, [note] if note else []


def read_setup(trainer: Any, dtype: str) -> tuple[Setup, list[str]]:
    """The devices and the precision that a recipe trains with.

    Args:
        trainer: The recipe's `trainer`, parsed.
        dtype: The model's `dtype`.

    Returns:
        The setup, and notes to show.
    """
    strategy, precision = trainer.strategy, str(trainer.precision or "32-true")
    path = getattr(strategy, "class_path", str(strategy))
    sharded = path.endswith("FSDP2Strategy")
    devices, notes = trainer.devices, []
    if isinstance(devices, list):
        devices = len(devices)
    if not str(devices).isdigit() or int(devices) < 1:
        notes.append(f"trainer.devices is {devices}: planned for one")
        devices = 1
    if sharded:
        half = strategy.get("init_args", {}).get("param_dtype", "float32") == "bfloat16"
    else:
        half = "16" in precision or dtype == "bfloat16"
    return Setup(int(devices) * trainer.num_nodes, sharded, 2 if half else 4, "mixed" in precision), notes
