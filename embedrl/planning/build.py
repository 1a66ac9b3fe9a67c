"""A recipe's models on the meta device: all shapes, no values, built in about a second."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import Qwen3VLForConditionalGeneration

from embedrl.errors import ConfigError
from embedrl.models.checkpoint_files import DTYPES, prepare_emb_row
from embedrl.models.open_clip.backbone import OpenClipBackbone
from embedrl.models.qwen_vl.backbone import QwenVL
from embedrl.models.qwen_vl.loading import is_local
from embedrl.models.two_towers.backbone import TwoTowerBackbone
from embedrl.planning.memory import Setup
from embedrl.planning.shapes import find_shape


def build_on_meta(model: nn.Module) -> tuple[Any, list[str]]:
    """Build a model as `build()` would, without weights.

    Args:
        model: A `QwenVLBackbone`, a `QwenVLReasoner`, an `OpenClipBackbone` or a `TwoTowerBackbone`, not built.

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
    if not isinstance(model, QwenVL):
        raise ConfigError(
            f"{type(model).__name__}: `embedrl plan` knows QwenVLBackbone, QwenVLReasoner, "
            "OpenClipBackbone, TwoTowerBackbone"
        )
    config, note = find_shape(model.path)
    dtype = DTYPES[model.dtype]
    with torch.device("meta"):
        network = Qwen3VLForConditionalGeneration(config)
        network.to(getattr(config, "dtype", None) or torch.bfloat16 if isinstance(dtype, str) else dtype)
        if is_local(model.path):  # with its tokenizer, so it is known whether `<emb>` needs a row more
            prepare_emb_row(network, model.processor.tokenizer, model.emb_token_id, model.emb_added)
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
