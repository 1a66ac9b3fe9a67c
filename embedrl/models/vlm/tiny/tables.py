"""Families whose towers look up words of their own for pictures: Ovis 2."""

from __future__ import annotations

from typing import Any

from transformers import Ovis2Config, Ovis2ImageProcessor, Ovis2Processor

from embedrl.models.vlm.tiny.fixed_towers import CHATML, TURNS
from embedrl.models.vlm.tiny.recipe import (
    GREY,
    PATCH,
    SIDE,
    SQUARE,
    TinyFamily,
    chat_template,
    ids,
    text_config,
    tower_config,
)

MARKS = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")


def _processor(tokenizer: Any, template: str) -> Any:
    images = Ovis2ImageProcessor(size=SQUARE, crop_to_patches=True, min_patches=1, max_patches=2, **GREY)
    return Ovis2Processor(images, tokenizer, chat_template=template, image_seq_length=9)


def _config(tokenizer: Any) -> Any:
    return Ovis2Config(
        text_config=text_config(tokenizer, "qwen2"),
        vision_config=tower_config("ovis2_vision", image_size=SIDE, patch_size=PATCH, vocab_size=64, hidden_stride=2),
        image_token_id=ids(tokenizer, atom="<IMG_ATOM>")["atom"],
        visual_indicator_token_ids=[ids(tokenizer, mark=mark)["mark"] for mark in MARKS],
        vocab_size=64,
        hidden_size=64,
        tie_word_embeddings=True,
    )


FAMILIES = {
    "ovis2": TinyFamily(
        (*TURNS, "<image>", "<IMG_ATOM>", *MARKS),
        CHATML,
        chat_template("<|im_start|>ROLE\n", "<|im_end|>\n", "<image>\n"),
        _processor,
        _config,
    )
}
"""Model type → how to build its tiny model."""
