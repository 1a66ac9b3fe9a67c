"""Tiny two-tower models with random weights in the layout of the real ones: `embedrl:tiny/FAMILY`."""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPProcessor,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Processor,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipProcessor,
)

from embedrl.errors import CheckpointError
from embedrl.models.qwen_vl.tiny import build_tokenizer, world_words
from embedrl.models.vlm.tiny.recipe import GREY, PATCH, SIDE, SQUARE, vocabulary_size

TOWER = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.05,
}
"""The shape of both towers."""
DIM = 64
_SIGLIP = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}
_SPECIAL = {
    "clip": {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    "siglip": _SIGLIP,
    "siglip2": _SIGLIP,
}
_LENGTH = {"clip": 77, "siglip": 64, "siglip2": 64}
FAMILIES = tuple(_LENGTH)
"""The model types that there are tiny models of."""


def build_processor(name: str) -> Any:
    """The processor of a tiny model.

    Args:
        name: The model type, such as `siglip2`.

    Raises:
        CheckpointError: If there is no such tiny model.
    """
    tokenizer = copy.deepcopy(_tokenizer(name))
    if name == "clip":
        images = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE, **GREY)
        return CLIPProcessor(images, tokenizer)
    if name == "siglip":
        return SiglipProcessor(SiglipImageProcessor(size=SQUARE, **GREY), tokenizer)
    images = Siglip2ImageProcessor(patch_size=PATCH, max_num_patches=(SIDE // PATCH) ** 2, **GREY)
    return Siglip2Processor(images, tokenizer)


def build_config(name: str) -> Any:
    """The configuration of a tiny model.

    Raises:
        CheckpointError: If there is no such tiny model.
    """
    tokenizer = _tokenizer(name)
    roles = {f"{role}_id": getattr(tokenizer, f"{role}_id") for role in _SPECIAL[name]}
    text = TOWER | {"vocab_size": vocabulary_size(tokenizer), "max_position_embeddings": _LENGTH[name]} | roles
    if name == "clip":
        fixed = {"image_size": SIDE, "patch_size": PATCH, "projection_dim": DIM}
        return CLIPConfig(text_config=text | {"projection_dim": DIM}, vision_config=TOWER | fixed, projection_dim=DIM)
    text["projection_size"] = DIM
    if name == "siglip":
        return SiglipConfig(text_config=text, vision_config=TOWER | {"image_size": SIDE, "patch_size": PATCH})
    patches = {"patch_size": PATCH, "num_patches": (SIDE // PATCH) ** 2}
    return Siglip2Config(text_config=text, vision_config=TOWER | patches)


def build_model(config: Any, attn_implementation: str = "sdpa", seed: int = 0) -> Any:
    """The model with random weights; the same seed gives the same weights and leaves the global RNG alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(config, dtype=torch.float32, attn_implementation=attn_implementation)
    return model.eval()


def write(name: str, folder: Path, seed: int = 0) -> Path:
    """Write a tiny model as the folder that its family's checkpoints have."""
    build_model(build_config(name), seed=seed).save_pretrained(folder)
    build_processor(name).save_pretrained(folder)
    return folder


@lru_cache
def _tokenizer(name: str) -> Any:
    """The tokenizer of the world's words; as the real ones, CLIP's begins and ends a text, SigLIP's ends it."""
    if name not in _LENGTH:
        raise CheckpointError(f"embedrl:tiny/{name}: no tiny two-tower model, choose one of {', '.join(FAMILIES)}")
    roles = _SPECIAL[name]
    if name == "siglip2":  # transformers makes this class anew of vocabulary and merges
        words = [f"{space}{word}" for word in sorted(world_words()) for space in ("", " ")]
        tokenizer = Siglip2Tokenizer(padding_side="right", model_input_names=["input_ids"]).train_new_from_iterator(
            [words] * 2, vocab_size=2048, show_progress=False
        )
        tokenizer.model_max_length = _LENGTH[name]
    else:
        special, names = tuple(dict.fromkeys(roles.values())), ["input_ids", "attention_mask"]
        # SigLIP reads the last place of the padded row, without a mask.
        options = {"model_max_length": _LENGTH[name], "model_input_names": names[: 2 if name == "clip" else 1]}
        tokenizer = build_tokenizer(world_words(), special, **options, **roles)
    begin, end = (roles["bos_token"] if name == "clip" else ""), roles["eos_token"]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A {end}".strip(),
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in (begin, end) if token],
    )
    return tokenizer
