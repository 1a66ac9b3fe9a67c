"""Families whose towers read patches of any grid: the Qwen line and GLM-4V."""

from __future__ import annotations

from typing import Any

from transformers import (
    Glm4vConfig,
    Glm4vImageProcessor,
    Glm4vProcessor,
    Glm4vVideoProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3_5Config,
    Qwen3_5Tokenizer,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from embedrl.models.vlm.tiny.recipe import GREY, TEXT, TinyFamily, chat_template, ids, vocabulary_size

PATCH, MERGE = 8, 2
PIXELS = {"shortest_edge": 32 * 32, "longest_edge": 56 * 56}
FRAMES = {"shortest_edge": 32 * 32, "longest_edge": 16 * 32 * 32}
GRID: dict[str, Any] = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2} | GREY
TURNS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VISION = {
    **{"depth": 2, "hidden_size": 48, "intermediate_size": 96, "num_heads": 4, "patch_size": PATCH},
    **{"out_hidden_size": 64, "num_position_embeddings": 36},
}
QWEN = (*TURNS, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN_ROLES = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
QWEN_TEMPLATE = chat_template(
    "<|im_start|>ROLE\n",
    "<|im_end|>\n",
    "<|vision_start|><|image_pad|><|vision_end|>",
    "<|vision_start|><|video_pad|><|vision_end|>",
)
GLM = (
    *("<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|image|>", "<|video|>"),
    *(f"<|{side}_of_{kind}|>" for side in ("begin", "end") for kind in ("image", "video")),
)
GLM_TEMPLATE = chat_template(
    "<|ROLE|>\n",
    "",
    "<|begin_of_image|><|image|><|end_of_image|>",
    "<|begin_of_video|><|video|><|end_of_video|>",
    begin="[gMASK]<sop>",
)


def qwen_ids(tokenizer: Any) -> dict[str, int]:
    """The ids of the tokens that mark pixels."""
    return ids(
        tokenizer,
        image_token_id="<|image_pad|>",
        video_token_id="<|video_pad|>",
        vision_start_token_id="<|vision_start|>",
        vision_end_token_id="<|vision_end|>",
    )


def qwen_text(tokenizer: Any, sections: list[int], **more: Any) -> dict[str, Any]:
    """The configuration of a text model with positions of three axes, in sections of these widths."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections}
    return TEXT | {"vocab_size": vocabulary_size(tokenizer), "rope_parameters": rope} | more


def qwen3_5_text(tokenizer: Any, **more: Any) -> dict[str, Any]:
    """The configuration of a text model of linear and full attention."""
    linear = {
        **{"linear_key_head_dim": 16, "linear_value_head_dim": 16},
        **{"linear_num_key_heads": 2, "linear_num_value_heads": 4},
        "layer_types": ["linear_attention", "full_attention"],
    }
    text = qwen_text(tokenizer, [2, 1, 1], head_dim=32, **linear, **more)
    text["rope_parameters"] |= {"mrope_interleaved": True, "partial_rotary_factor": 0.25}
    return text


def _qwen2_processor(tokenizer: Any, template: str) -> Any:
    images = Qwen2VLImageProcessor(size=PIXELS, **GRID)
    videos = Qwen2VLVideoProcessor(size=FRAMES, do_sample_frames=False, cap_pixels_per_frame=False, **GRID)
    return Qwen2VLProcessor(images, tokenizer, videos, chat_template=template)


def _qwen2_5_processor(tokenizer: Any, template: str) -> Any:
    images = Qwen2VLImageProcessor(size=PIXELS, **GRID)
    videos = Qwen2VLVideoProcessor(size=FRAMES, do_sample_frames=False, cap_pixels_per_frame=False, **GRID)
    return Qwen2_5_VLProcessor(images, tokenizer, videos, chat_template=template)


def _qwen3_5_processor(tokenizer: Any, template: str) -> Any:
    images = Qwen2VLImageProcessor(size=PIXELS, **GRID)
    videos = Qwen3VLVideoProcessor(size=FRAMES, do_sample_frames=False, cap_pixels_per_frame=False, **GRID)
    return Qwen3VLProcessor(images, tokenizer, videos, chat_template=template)


def _glm_processor(tokenizer: Any, template: str) -> Any:
    # It counts the pixels of a picture twice, once for each of the two frames that it makes of it.
    images = Glm4vImageProcessor(size={name: 2 * pixels for name, pixels in PIXELS.items()}, **GRID)
    videos = Glm4vVideoProcessor(size=FRAMES, do_sample_frames=False, **GRID)
    return Glm4vProcessor(images, tokenizer, videos, chat_template=template)


def _qwen2_config(tokenizer: Any) -> Any:
    vision = {"depth": 2, "embed_dim": 48, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2, "patch_size": PATCH}
    return Qwen2VLConfig(
        text_config=qwen_text(tokenizer, [2, 3, 3]),
        vision_config=vision,
        tie_word_embeddings=True,
        **qwen_ids(tokenizer),
    )


def _qwen2_5_config(tokenizer: Any) -> Any:
    vision = {
        **{"depth": 2, "hidden_size": 48, "intermediate_size": 96, "num_heads": 4, "patch_size": PATCH},
        **{"out_hidden_size": 64, "window_size": 32, "fullatt_block_indexes": [1]},
    }
    return Qwen2_5_VLConfig(
        text_config=qwen_text(tokenizer, [2, 3, 3]),
        vision_config=vision,
        tie_word_embeddings=True,
        **qwen_ids(tokenizer),
    )


def _qwen3_5_config(tokenizer: Any) -> Any:
    text = qwen3_5_text(tokenizer)
    return Qwen3_5Config(text_config=text, vision_config=VISION, tie_word_embeddings=True, **qwen_ids(tokenizer))


def _glm_config(tokenizer: Any) -> Any:
    vision = {
        **{"depth": 2, "hidden_size": 48, "intermediate_size": 96, "num_heads": 4, "patch_size": PATCH},
        **{"out_hidden_size": 64, "image_size": 48},
    }
    return Glm4vConfig(
        text_config=qwen_text(tokenizer, [2, 3, 3]),
        vision_config=vision,
        tie_word_embeddings=True,
        **ids(
            tokenizer,
            image_token_id="<|image|>",
            video_token_id="<|video|>",
            image_start_token_id="<|begin_of_image|>",
            image_end_token_id="<|end_of_image|>",
            video_start_token_id="<|begin_of_video|>",
            video_end_token_id="<|end_of_video|>",
        ),
    )


FAMILIES = {
    "qwen2_vl": TinyFamily(QWEN, QWEN_ROLES, QWEN_TEMPLATE, _qwen2_processor, _qwen2_config),
    "qwen2_5_vl": TinyFamily(QWEN, QWEN_ROLES, QWEN_TEMPLATE, _qwen2_5_processor, _qwen2_5_config),
    "qwen3_5": TinyFamily(
        QWEN, QWEN_ROLES, QWEN_TEMPLATE, _qwen3_5_processor, _qwen3_5_config, trained=Qwen3_5Tokenizer
    ),
    "glm4v": TinyFamily(
        GLM, {"eos_token": "<|user|>", "pad_token": "<|endoftext|>"}, GLM_TEMPLATE, _glm_processor, _glm_config
    ),
}
"""Model type → how to build its tiny model."""
