"""Builds and writes the tiny models: `embedrl:tiny/FAMILY`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import nn
from transformers import AutoModel, AutoModelForImageTextToText

from embedrl.errors import CheckpointError
from embedrl.models.qwen_vl.tiny import MARKUP, build_tokenizer, world_words
from embedrl.models.vlm.tiny import fixed_towers, gemma, mixtures, patch_grids, slices, tables
from embedrl.models.vlm.tiny.recipe import TinyFamily

FAMILIES: dict[str, TinyFamily] = {}
for _module in (patch_grids, fixed_towers, gemma, mixtures, tables, slices):
    FAMILIES |= _module.FAMILIES
"""Model type → how to build its tiny model."""


def build_processor(name: str) -> Any:
    """The processor of a tiny model.

    Args:
        name: The model type, such as `qwen2_5_vl`.

    Raises:
        CheckpointError: If there is no such tiny model, or a package is missing that its processor needs.
    """
    family = _family(name)
    try:
        return family.processor(_tokenizer(family), family.template)
    except ImportError as error:
        raise CheckpointError(f"embedrl:tiny/{name}: {str(error).strip()}") from error


def build_config(name: str) -> Any:
    """The configuration of a tiny model.

    Raises:
        CheckpointError: If there is no such tiny model.
    """
    family = _family(name)
    tokenizer = _tokenizer(family)
    config = family.config(tokenizer)
    config.text_config.eos_token_id = tokenizer.eos_token_id
    return config


def build_model(config: Any, attn_implementation: str = "sdpa", seed: int = 0) -> Any:
    """The model with random weights; the same seed gives the same weights and leaves the global RNG alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        cls: Any = AutoModel if config.model_type in gemma.ENCODERS else AutoModelForImageTextToText
        model = cls.from_config(config, dtype=torch.float32, attn_implementation=attn_implementation)
        for parameter in model.parameters():
            # Some families start with a projector of zeros, through which no picture is seen.
            if parameter.ndim == 2 and not parameter.is_meta and not parameter.any():
                nn.init.normal_(parameter, std=0.05)
    if model.can_generate():
        model.generation_config.eos_token_id = config.text_config.eos_token_id
        model.generation_config.pad_token_id = 0
    return model.eval()


def write(name: str, folder: Path, seed: int = 0) -> Path:
    """Write a tiny model as the folder that its family's checkpoints have."""
    build_model(build_config(name), seed=seed).save_pretrained(folder)
    build_processor(name).save_pretrained(folder)
    return folder


def _family(name: str) -> TinyFamily:
    if name in gemma.ENCODERS:
        return gemma.ENCODERS[name]
    if name not in FAMILIES:
        raise CheckpointError(f"embedrl:tiny/{name} does not exist: choose one of {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name]


def _tokenizer(family: TinyFamily) -> Any:
    roles = dict(family.roles) | {"extra_special_tokens": dict(family.extra)}
    if family.trained is None:
        return build_tokenizer(world_words(), family.special, **roles)
    words = [f"{space}{word}" for word in sorted(world_words()) for space in ("", " ")]
    tokenizer = family.trained().train_new_from_iterator(
        [words] * 2, vocab_size=1024, new_special_tokens=list(family.special), show_progress=False
    )
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in MARKUP])
    for role, token in family.roles.items():
        setattr(tokenizer, role, token)
    return tokenizer
