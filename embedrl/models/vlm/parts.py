"""The parts of a vision-language model, found by its structure: what LoRA adapts."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from embedrl.errors import ConfigError
from embedrl.models.lora import SCOPES, LoRAOptions
from embedrl.models.vlm.family import VLMFamily


def linear_layers(core: Any, family: VLMFamily, options: LoRAOptions) -> list[str]:
    """The names of the linear layers that LoRA adapts; the projector is what lies outside of decoder and towers.

    Args:
        core: The model without its LM head.
        family: Its family.
        options: The options, with their scope.

    Returns:
        Names inside `core`.

    Raises:
        ConfigError: If a part that the scope names has no linear layer, or holds experts whose weights are fused into
            one tensor.
    """
    decoder = core.get_decoder()
    places = {"language": decoder, "vision": family.vision_tower(core), "audio": core.get_encoder(modality="audio")}
    inside = {
        part: {id(module) for module in place.modules()}
        for part, place in places.items()
        if isinstance(place, nn.Module) and place is not core
    }
    layers: dict[str, list[str]] = {part: [] for part in (*SCOPES, "audio")}
    for name, module in core.named_modules():
        if isinstance(module, nn.Linear):
            part = next((part for part, modules in inside.items() if id(module) in modules), "projector")
            if part == "vision" and re.fullmatch(family.projector, name):
                part = "projector"
            layers[part].append(name)
            if part == "language" and re.search(r"att(n|ention)", name):
                layers["language-attention"].append(name)
    if "language" in options.parts and (fused := _fused_experts(decoder)):
        raise ConfigError(
            f"lora.scope language: the experts of {type(core).__name__} are fused into one tensor ({fused}), which has "
            "no adapter: use language-attention"
        )
    for part in options.scope.split("+"):
        if not layers.get({"merger": "projector"}.get(part, part), ["all-linear"]):
            raise ConfigError(f"lora.scope: {type(core).__name__} has no linear layer in its part {part!r}")
    return list(dict.fromkeys(name for part in options.parts for name in layers[part]))


def _fused_experts(decoder: nn.Module) -> str:
    """The first parameter that holds the weights of several experts, empty if none does."""
    return next((name for name, p in decoder.named_parameters() if p.ndim == 3 and "expert" in name), "")
