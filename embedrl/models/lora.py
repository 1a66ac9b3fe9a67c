"""LoRA with named scopes: which linear layers of a Qwen3-VL get an adapter."""

from __future__ import annotations

import re
from dataclasses import dataclass

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from embedrl.errors import ConfigError

_LANGUAGE = r"language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
_VISION = r"visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.linear_fc[12])"
_MERGER = r"visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc[12]"
SCOPES: dict[str, str] = {
    "language": _LANGUAGE,
    "language-attention": r"language_model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj",
    "language+merger": f"{_LANGUAGE}|{_MERGER}",
    "language+vision": f"{_LANGUAGE}|{_VISION}",
    "all-linear": f"{_LANGUAGE}|{_VISION}|{_MERGER}",
}
"""Scope → pattern of the modules it adapts. The paper's is `language`; no scope touches the LM head."""


@dataclass(frozen=True, slots=True)
class LoRAOptions:
    """Low-rank adaptation. Source: Embed-RL B.1 (2B: 64 / 128 / 0.05).

    Attributes:
        r: Rank.
        alpha: Scale of the update, which is multiplied by alpha / r.
        dropout: Dropout on the adapter's input.
        scope: One of `SCOPES`: language, language-attention, language+merger, language+vision, all-linear.
    """

    r: int = 64
    alpha: float = 128
    dropout: float = 0.05
    scope: str = "language"

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise ConfigError(f"lora.scope {self.scope!r} is unknown: choose one of {', '.join(SCOPES)}")
        if self.r < 1:
            raise ConfigError(f"lora.r is {self.r}: the rank must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora.dropout is {self.dropout}: give a probability from 0 to below 1, such as 0.05")
        if not self.alpha > 0:
            raise ConfigError(f"lora.alpha is {self.alpha}: give a number above 0, such as 2 r")


def add_lora(model: nn.Module, options: LoRAOptions) -> PeftModel:
    """Freeze the model and put adapters into the linear layers of the scope.

    Raises:
        ConfigError: If the scope matches no linear layer.
    """
    pattern = rf"(.*\.)?({SCOPES[options.scope]})"
    if not any(isinstance(m, nn.Linear) and re.fullmatch(pattern, name) for name, m in model.named_modules()):
        raise ConfigError(f"lora.scope {options.scope!r} matches no linear layer of {type(model).__name__}")
    config = LoraConfig(
        r=options.r, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=pattern, bias="none"
    )
    return get_peft_model(model, config)
