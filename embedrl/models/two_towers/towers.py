"""The parts of a two-tower model of transformers by meaning, and its adapters."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from embedrl.errors import ConfigError
from embedrl.models.lora import LoRAOptions

_PROJECTOR = re.compile(r"(visual|vision|text)_projection(\..+)?|(text|vision)_model\.head(\..+)?")
_TOWERS = {"language": "text_model.", "vision": "vision_model."}


def part_of(name: str) -> str:
    """The part of the model that a parameter or module belongs to.

    Args:
        name: Its name inside the model.

    Returns:
        `language` (the text tower), `vision`, `projector` (what maps a tower's features to the shared space: SigLIP's
        heads, CLIP's projections), or nothing: the loss's own temperature, which stays out.
    """
    if _PROJECTOR.fullmatch(name):
        return "projector"
    return next((part for part, prefix in _TOWERS.items() if name.startswith(prefix)), "")


def linear_layers(network: nn.Module, options: LoRAOptions) -> list[str]:
    """The names of the linear layers that LoRA adapts.

    Args:
        network: The model.
        options: The options, with their scope.

    Raises:
        ConfigError: If a part that the scope names has no linear layer.
    """
    layers: dict[str, list[str]] = {"language": [], "language-attention": [], "vision": [], "projector": []}
    whole = [f"{name}." for name, module in network.named_modules() if isinstance(module, nn.MultiheadAttention)]
    for name, module in network.named_modules():
        # torch's own attention reads the weights of its linear layer without calling it.
        if not isinstance(module, nn.Linear) or name.startswith(tuple(whole)) or not (part := part_of(name)):
            continue
        layers[part].append(name)
        if part == "language" and re.search(r"att(n|ention)", name):
            layers["language-attention"].append(name)
    for part in options.parts:
        if not layers[part] and (part != "projector" or options.scope != "all-linear"):
            raise ConfigError(f"lora.scope: {type(network).__name__} has no linear layer in its part {part!r}")
    return list(dict.fromkeys(name for part in options.parts for name in layers[part]))


def frozen_parts(network: Any, trainable: str) -> None:
    """Let a model's parameters be trained: all but the temperature (`full`), or the projector alone (`projections`).

    Raises:
        ConfigError: If nothing would be trained.
    """
    trained = False
    for name, parameter in network.named_parameters():
        part = part_of(name)
        parameter.requires_grad_(part == "projector" if trainable == "projections" else bool(part))
        trained = trained or parameter.requires_grad
    if not trained:
        raise ConfigError(
            f"backbone.trainable: {trainable}: a {type(network).__name__} has no such layer: use full or lora"
        )
