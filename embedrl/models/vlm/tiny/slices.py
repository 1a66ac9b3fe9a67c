"""Families that cut a picture into slices or crops beside the whole: MiniCPM-V 4.6, Molmo 2."""

from __future__ import annotations

from typing import Any

from transformers import (
    MiniCPMV4_6Config,
    MiniCPMV4_6ImageProcessor,
    MiniCPMV4_6Processor,
    MiniCPMV4_6VideoProcessor,
    Molmo2Config,
    Molmo2ImageProcessor,
    Molmo2Processor,
    Molmo2VideoProcessor,
)

from embedrl.models.vlm.tiny.fixed_towers import CHATML, TURNS
from embedrl.models.vlm.tiny.patch_grids import qwen3_5_text
from embedrl.models.vlm.tiny.recipe import (
    GREY,
    PATCH,
    ROOM,
    SIDE,
    SIGLIP,
    SQUARE,
    TEXT,
    TinyFamily,
    chat_template,
    ids,
)

MINICPM = {
    **{"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    **{"image_start_token": "<image>", "image_end_token": "</image>"},
    **{"slice_start_token": "<slice>", "slice_end_token": "</slice>"},
    **{"image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>"},
}
MOLMO = (
    *("<|image|>", "<|video|>", "<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<im_end>", "<im_low>"),
    *("<frame_start>", "<frame_end>"),
)


def _minicpm_processor(tokenizer: Any, template: str) -> Any:
    # A token is made of 4 x 4 patches, so that a slice has 3 x 3 tokens.
    slices = {"patch_size": PATCH // 2, "scale_resolution": SIDE, "max_slice_nums": 2} | GREY
    return MiniCPMV4_6Processor(
        MiniCPMV4_6ImageProcessor(**slices),
        MiniCPMV4_6VideoProcessor(do_sample_frames=False, **slices),
        tokenizer,
        chat_template=template,
    )


def _minicpm_config(tokenizer: Any) -> Any:
    return MiniCPMV4_6Config(
        text_config=qwen3_5_text(tokenizer) | {"model_type": "qwen3_5_text"},
        vision_config={name: value for name, value in SIGLIP.items() if name != "initializer_range"}
        | {"image_size": SIDE, "patch_size": PATCH // 2},
        insert_layer_id=0,
        image_size=SIDE,
        tie_word_embeddings=True,
        **ids(tokenizer, image_token_id=MINICPM["image_token"], video_token_id=MINICPM["video_token"]),
    )


def _molmo_processor(tokenizer: Any, template: str) -> Any:
    images = Molmo2ImageProcessor(size=SQUARE, patch_size=PATCH, max_crops=2, overlap_margins=[1, 1], **GREY)
    videos = Molmo2VideoProcessor(size=SQUARE, patch_size=PATCH, do_sample_frames=False, **GREY)
    return Molmo2Processor(images, videos, tokenizer, chat_template=template)


def _molmo_config(tokenizer: Any) -> Any:
    # Its gated projector makes small features of small weights, and adds them to the embedding.
    vision = SIGLIP | {"num_key_value_heads": 4, "head_dim": 12, "initializer_range": 0.2}
    adapter = {name: value for name, value in vision.items() if name != "num_hidden_layers"}
    # As in the real ones, the head has no row for the tokens of the additional table, in which `<emb>` has its place.
    rows = {"vocab_size": len(tokenizer), "additional_vocab_size": ROOM, "head_dim": 16}
    return Molmo2Config(
        text_config=TEXT | rows | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        vision_config=vision | {"image_size": [SIDE] * 2, "patch_size": PATCH},
        adapter_config=adapter | {"vision_feature_layer": [1, 0], "text_hidden_size": TEXT["hidden_size"]},
        **ids(
            tokenizer,
            image_patch_id="<im_patch>",
            image_start_token_id="<im_start>",
            low_res_image_start_token_id="<low_res_im_start>",
            image_end_token_id="<im_end>",
            frame_start_token_id="<frame_start>",
            frame_end_token_id="<frame_end>",
        ),
    )


FAMILIES = {
    "minicpmv4_6": TinyFamily(
        (*TURNS, *MINICPM.values()),
        CHATML,
        chat_template("<|im_start|>ROLE\n", "<|im_end|>\n", "<|image_pad|>", "<|video_pad|>"),
        _minicpm_processor,
        _minicpm_config,
        MINICPM,
    ),
    "molmo2": TinyFamily(
        (*TURNS, *MOLMO),
        CHATML | {"bos_token": "<|im_end|>"},
        chat_template("<|im_start|>ROLE\n", "<|im_end|>\n", "<|image|>", "<|video|>"),
        _molmo_processor,
        _molmo_config,
        {"image_token": "<|image|>", "video_token": "<|video|>"},
    ),
}
"""Model type → how to build its tiny model."""
