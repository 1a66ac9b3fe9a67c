"""Mixtures of experts: the Qwen line's, ERNIE 4.5, Kimi-K2.5."""

from __future__ import annotations

from typing import Any

from transformers import (
    Ernie4_5_VLMoeConfig,
    Ernie4_5_VLMoeImageProcessor,
    Ernie4_5_VLMoeProcessor,
    Ernie4_5_VLMoeVideoProcessor,
    Kimi_K25Config,
    Kimi_K25ImageProcessor,
    Kimi_K25Processor,
    Kimi_K25VideoProcessor,
    Qwen3_5MoeConfig,
    Qwen3VLMoeConfig,
)

from embedrl.models.vlm.tiny import patch_grids
from embedrl.models.vlm.tiny.fixed_towers import CHATML, TURNS
from embedrl.models.vlm.tiny.patch_grids import (
    FRAMES,
    GRID,
    MERGE,
    PATCH,
    PIXELS,
    VISION,
    qwen3_5_text,
    qwen_ids,
    qwen_text,
)
from embedrl.models.vlm.tiny.recipe import GREY, SIDE, SIGLIP, TinyFamily, chat_template, ids, text_config

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ERNIE = {
    f"{kind}{part}_token": f"<|{kind.upper()}_{part.removeprefix('_').upper() or 'PLACEHOLDER'}|>"
    for kind in ("image", "video")
    for part in ("", "_start", "_end")
}
KIMI = ("<|media_begin|>", "<|media_content|>", "<|media_pad|>", "<|media_end|>", "<|kimi_k25_video_placeholder|>")


# ---------------------------------------------------------------- the Qwen line


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
    text = qwen3_5_text(tokenizer, shared_expert_intermediate_size=32, **EXPERTS)
    return Qwen3_5MoeConfig(text_config=text, vision_config=VISION, tie_word_embeddings=True, **qwen_ids(tokenizer))


# ---------------------------------------------------------------- ERNIE 4.5, Kimi-K2.5


def _ernie_processor(tokenizer: Any, template: str) -> Any:
    images = Ernie4_5_VLMoeImageProcessor(size=PIXELS, **GRID | {"temporal_patch_size": 1})
    # The real one draws the time on each frame, with a font that lies beside the checkpoint.
    videos = Ernie4_5_VLMoeVideoProcessor(size=FRAMES, do_sample_frames=False, draw_on_frames=False, **GRID)
    return Ernie4_5_VLMoeProcessor(images, tokenizer, videos, chat_template=template)


def _ernie_config(tokenizer: Any) -> Any:
    experts = {"moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1, "moe_intermediate_size": [32, 16]}
    vision = {"depth": 2, "hidden_size": 48, "intermediate_size": 96, "num_heads": 4, "patch_size": PATCH}
    return Ernie4_5_VLMoeConfig(
        text_config=qwen_text(tokenizer, [3, 3, 2], **experts),
        vision_config=vision,
        tie_word_embeddings=True,
        **ids(tokenizer, **{f"{name}_id": token for name, token in ERNIE.items()}),
    )


def _kimi_processor(tokenizer: Any, template: str) -> Any:
    patches = {"patch_size": PATCH, "merge_size": MERGE, "max_patches": (SIDE // PATCH) ** 2} | GREY
    images, videos = Kimi_K25ImageProcessor(**patches), Kimi_K25VideoProcessor(do_sample_frames=False, **patches)
    return Kimi_K25Processor(images, tokenizer, videos, chat_template=template)


def _kimi_config(tokenizer: Any) -> Any:
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1}
    text = text_config(
        tokenizer,
        "deepseek_v3",
        num_key_value_heads=4,
        moe_intermediate_size=32,
        first_k_dense_replace=1,
        num_mtp_layers=0,
        **{"q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16},
        **experts,
    )
    return Kimi_K25Config(
        text_config=text,
        vision_config=SIGLIP | {"patch_size": PATCH, "pos_emb_height": 8, "pos_emb_width": 8},
        projection_hidden_size=SIGLIP["hidden_size"],
        tie_word_embeddings=True,
        **ids(
            tokenizer,
            image_token_id="<|media_pad|>",
            video_token_id="<|kimi_k25_video_placeholder|>",
            vision_start_token_id="<|media_begin|>",
            vision_end_token_id="<|media_end|>",
        ),
    )


_QWEN = patch_grids.FAMILIES["qwen3_5"]
FAMILIES = {
    "qwen3_vl_moe": TinyFamily(_QWEN.special, _QWEN.roles, _QWEN.template, _QWEN.processor, _qwen3_config),
    "qwen3_5_moe": TinyFamily(
        _QWEN.special, _QWEN.roles, _QWEN.template, _QWEN.processor, _qwen3_5_config, trained=_QWEN.trained
    ),
    "ernie4_5_vl_moe": TinyFamily(
        (*TURNS, *ERNIE.values()),
        CHATML,
        chat_template(
            "<|im_start|>ROLE\n",
            "<|im_end|>\n",
            "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
            "<|VIDEO_START|><|VIDEO_PLACEHOLDER|><|VIDEO_END|>",
        ),
        _ernie_processor,
        _ernie_config,
        ERNIE,
    ),
    "kimi_k25": TinyFamily(
        (*TURNS, *KIMI),
        CHATML,
        chat_template(
            "<|im_start|>ROLE\n",
            "<|im_end|>\n",
            "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>\n",
            "<|kimi_k25_video_placeholder|>\n",
        ),
        _kimi_processor,
        _kimi_config,
        {"image_token": "<|media_pad|>", "video_token": "<|kimi_k25_video_placeholder|>"},
    ),
}
"""Model type → how to build its tiny model."""
