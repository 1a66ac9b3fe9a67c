"""The towers of an open_clip model: weights of their own, projections, adapters."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from open_clip.factory import load_state_dict
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from embedrl.errors import CheckpointError, ConfigError
from embedrl.models.weight_files import package_path

_PROJECTION = re.compile(
    r"visual\.(proj|head\..+|attnpool\.c_proj\..+)|(text\.)?text_projection(\..+)?|text\.proj(\..+)?"
)
_SCOPES = {
    "text": r"(text\.)?transformer\..+",
    "vision": r"visual\..+",
    "text+vision": r"((text\.)?transformer|visual)\..+",
}


@dataclass(frozen=True)
class TowerWeights:
    """Weights of one tower, in a file of their own.

    Attributes:
        path: A safetensors or torch file, or `package:NAME/FILE` inside an installed Python package.
        match: Pair tensors by `name`, or by `order` where another library names the same layers differently; shapes
            must agree. What the tower lacks (a classifier) is left out.
    """

    path: str
    match: Literal["name", "order"] = "name"


@dataclass(frozen=True)
class ClipLoRA:
    """Low-rank adaptation of the towers' linear and attention layers.

    Attributes:
        r: Rank.
        alpha: Scale of the update, which is multiplied by alpha / r.
        dropout: Dropout on the adapter's input; must be 0 if the scope holds torch's own attention layers, as in a ViT.
        scope: `text`, `vision` or `text+vision`.
    """

    r: int = 16
    alpha: float = 32
    dropout: float = 0.0
    scope: Literal["text", "vision", "text+vision"] = "text+vision"


def load_tower(tower: nn.Module, weights: TowerWeights) -> None:
    """Load the weights of one tower.

    Raises:
        ConfigError: If the file cannot be found.
        CheckpointError: If the tower has a tensor that the file lacks, or shapes differ.
    """
    path = package_path(weights.path)
    given, own = load_state_dict(path, weights_only=True), tower.state_dict()
    if weights.match == "order":
        given = dict(zip(own, given.values(), strict=False))
    wrong = [name for name, tensor in own.items() if name not in given or given[name].shape != tensor.shape]
    if wrong:
        raise CheckpointError(
            f"{path} does not fit {type(tower).__name__}: {len(wrong)} tensors are missing or of another shape "
            f"({', '.join(wrong[:3])}); choose other vision_weights, or another match than {weights.match!r}"
        )
    tower.load_state_dict({name: given[name] for name in own})


def projections(clip: nn.Module) -> list[str]:
    """Names of the parameters that map a tower's features to the shared space."""
    return [name for name, _ in clip.named_parameters() if _PROJECTION.fullmatch(name)]


def add_tower_lora(clip: nn.Module, options: ClipLoRA) -> PeftModel:
    """Freeze the model, put adapters into the layers of the scope, and train projections that are modules.

    Raises:
        ConfigError: If the scope matches no layer, or dropout is asked of torch's attention.
    """
    kinds = (nn.Linear, nn.MultiheadAttention)
    layers = {
        name: module
        for name, module in clip.named_modules()
        if isinstance(module, kinds)
        and not name.endswith(".out_proj")  # part of its attention layer
        and re.fullmatch(_SCOPES[options.scope], name)
        and not _PROJECTION.match(f"{name}.weight")
    }
    if not layers:
        raise ConfigError(f"backbone.lora.scope {options.scope!r} matches no linear or attention layer of the model")
    if options.dropout and any(isinstance(module, nn.MultiheadAttention) for module in layers.values()):
        raise ConfigError("backbone.lora.dropout: torch's attention layers take none; set it to 0")
    modules = sorted({name.rpartition(".")[0] for name in projections(clip) if name.endswith((".weight", ".bias"))})
    config = LoraConfig(
        r=options.r,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules="|".join(re.escape(name) for name in layers),
        modules_to_save=modules or None,
        bias="none",
    )
    return get_peft_model(clip, config)
