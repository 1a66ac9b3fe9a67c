"""Mixtures of experts of the Qwen line."""

from __future__ import annotations

from typing import Any

from transformers import Qwen3_5MoeConfig, Qwen3VLMoeConfig

from embedrl.models.vlm.tiny.patch_grids import FAMILIES as DENSE
from embedrl.models.vlm.tiny.patch_grids import PATCH, qwen_ids, qwen_text
from embedrl.models.vlm.tiny.recipe import TinyFamily

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
VISION = {
    **{"depth": 2, "hidden_size": 48, "intermediate_size": 96, "num_heads": 4, "patch_size": PATCH},
    **{"out_hidden_size": 64, "num_position_embeddings": 36},
}


def _qwen3_config(tokenizer: Any) -> Any:
    text = qwen_text(tokenizer, [4, 2, 2], head_dim=16, **EXPERTS)
    text["rope_parameters"] |= {"mrope_interleaved": True}
    return Qwen3VLMoeConfig(
        text_config=text,
        vision_config=VISION | {"deepstack_visual_indexes": [0]},
        tie_word_embeddings=True,
        **qwen_ids(tokenizer),
    )


def _qwen3_5_config(tokenizer: Any) -> Any:
    text = qwen_text(
        tokenizer,
        [2, 1, 1],
        head_dim=32,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        layer_types=["linear_attention", "full_attention"],
        shared_expert_intermediate_size=32,
        **EXPERTS,
    )
    text["rope_parameters"] |= {"mrope_interleaved": True, "partial_rotary_factor": 0.25}
    return Qwen3_5MoeConfig(text_config=text, vision_config=VISION, tie_word_embeddings=True, **qwen_ids(tokenizer))


_QWEN = DENSE["qwen3_5"]
FAMILIES = {
    "qwen3_vl_moe": TinyFamily(_QWEN.special, _QWEN.roles, _QWEN.template, _QWEN.processor, _qwen3_config),
    "qwen3_5_moe": TinyFamily(
        _QWEN.special, _QWEN.roles, _QWEN.template, _QWEN.processor, _qwen3_5_config, trained=_QWEN.trained
    ),
}
"""Model type → how to build its tiny model."""
