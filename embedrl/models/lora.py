"""LoRA with scopes named by meaning: which linear layers get an adapter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from embedrl.errors import ConfigError
from embedrl.models.adapters import adapter_base
from embedrl.models.experts import ExpertOptions, routed_config

SCOPES: dict[str, str] = {
    "language": r"language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj",
    "language-attention": r"language_model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj",
    "vision": r"visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.linear_fc[12])",
    "projector": r"visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc[12]",
}
"""Part of a model → pattern of the modules in it that are adapted in a Qwen3-VL.

Other families find theirs by structure (`embedrl.models.vlm.parts.linear_layers`). The paper's is `language`; no
part holds the LM head."""
_OTHER_NAMES = {"merger": ("projector",), "all-linear": ("language", "vision", "projector")}


@dataclass(frozen=True, slots=True)
class LoRAOptions:
    """Low-rank adaptation. Source: Embed-RL B.1 (2B: 64 / 128 / 0.05).

    Attributes:
        r: Rank.
        alpha: Scale of the update, which is multiplied by alpha / r.
        dropout: Dropout on the adapter's input.
        scope: The parts of the model that are adapted, joined by `+`: language, language-attention, vision (the tower),
            projector (what maps its features to the language model; also called merger). all-linear is all of them.
        experts: Several updates a layer, between which a router chooses for each token; None: one, without a router.
    """

    r: int = 64
    alpha: float = 128
    dropout: float = 0.05
    scope: str = "language"
    experts: ExpertOptions | None = None

    def __post_init__(self) -> None:
        if unknown := [part for part in self.parts if part not in SCOPES]:
            names = ", ".join([*SCOPES, *_OTHER_NAMES])
            raise ConfigError(f"lora.scope {self.scope!r}: {unknown[0]!r} is unknown: join some of {names} by '+'")
        if self.r < 1:
            raise ConfigError(f"lora.r is {self.r}: the rank must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora.dropout is {self.dropout}: give a probability from 0 to below 1, such as 0.05")
        if not self.alpha > 0:
            raise ConfigError(f"lora.alpha is {self.alpha}: give a number above 0, such as 2 r")

    @property
    def parts(self) -> tuple[str, ...]:
        """The keys of `SCOPES` that the scope names."""
        return tuple(dict.fromkeys(part for name in self.scope.split("+") for part in _OTHER_NAMES.get(name, (name,))))


def add_lora(model: nn.Module, options: LoRAOptions, targets: Sequence[str] | None = None) -> PeftModel:
    """Freeze the model and put adapters into the linear layers of the scope.

    Args:
        model: The model.
        options: The options.
        targets: Names of the layers; None: those that `SCOPES` describes.

    Raises:
        ConfigError: If the scope matches no linear layer.
    """
    pattern = rf"(.*\.)?({'|'.join(SCOPES[part] for part in options.parts)})"
    if targets is None:
        linear = any(isinstance(m, nn.Linear) and re.fullmatch(pattern, name) for name, m in model.named_modules())
    else:
        linear = bool(targets)
    if not linear:
        raise ConfigError(f"lora.scope {options.scope!r} matches no linear layer of {type(model).__name__}")
    modules: Any = pattern if targets is None else list(targets)
    if options.experts is not None and options.experts.count > 1:
        return get_peft_model(model, routed_config(options.experts, options.r, options.alpha, options.dropout, modules))
    config = LoraConfig(
        r=options.r,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=modules,
        bias="none",
    )
    return get_peft_model(model, config)


def add_lora_on(path: str, network: Any, options: LoRAOptions, targets: Sequence[str] | None = None) -> PeftModel:
    """As `add_lora`, to a network of a checkpoint, which exported adapters name as their base.

    Args:
        path: The checkpoint.
        network: The network that was loaded from it.
        options: The options.
        targets: As of `add_lora`.

    Raises:
        ConfigError: If the scope matches no linear layer.
    """
    adapted = add_lora(network, options, targets)
    if adapter_base(path) or not network.name_or_path:
        adapted.peft_config["default"].base_model_name_or_path = path
    return adapted
