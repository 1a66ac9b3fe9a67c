"""Gemma 3, Gemma 4, PaliGemma and EmbeddingGemma 2."""

from __future__ import annotations

from typing import Any

from transformers import (
    EmbeddingGemma2Config,
    EmbeddingGemma2Processor,
    EmbeddingGemma2VideoProcessor,
    Gemma3Config,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ImageProcessor,
    Gemma4Processor,
    Gemma4VideoProcessor,
    PaliGemmaConfig,
    PaliGemmaProcessor,
    SiglipImageProcessor,
)

from embedrl.models.vlm.layouts import EmbeddingGemma, PaliGemma
from embedrl.models.vlm.tiny.recipe import (
    GREY,
    PATCH,
    SIDE,
    SIGLIP,
    SQUARE,
    TinyFamily,
    chat_template,
    ids,
    text_config,
    tower_config,
    vocabulary_size,
)


def _gemma3_processor(tokenizer: Any, template: str) -> Any:
    images = Gemma3ImageProcessor(size=SQUARE, **GREY)
    return Gemma3Processor(images, tokenizer, image_seq_length=9, chat_template=template)


def _gemma3_config(tokenizer: Any) -> Any:
    layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 64, "head_dim": 16}
    return Gemma3Config(
        text_config=text_config(tokenizer, "gemma3_text", query_pre_attn_scalar=16, **layers),
        vision_config=tower_config("siglip_vision_model", vision_use_head=False),
        mm_tokens_per_image=9,
        tie_word_embeddings=True,
        **ids(
            tokenizer,
            image_token_id="<image_soft_token>",
            boi_token_id="<start_of_image>",
            eoi_token_id="<end_of_image>",
        ),
    )


# 70 tokens a picture are the fewest that the processors of Gemma 4 know.
PATCHES: dict[str, Any] = {"patch_size": 4, "max_soft_tokens": 70, "pooling_kernel_size": 3}
VISION = SIGLIP | {
    **{"model_type": "gemma4_vision", "patch_size": 4, "head_dim": 12, "num_key_value_heads": 4},
    "position_embedding_size": 256,
}
MARKS = ("<|image>", "<image|>", "<|image|>", "<|video|>", "<|audio>", "<audio|>", "<|audio|>")
MARK_ROLES = {
    **{"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>"},
    **{"audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"},
}


def _mark_ids(tokenizer: Any) -> dict[str, int]:
    return ids(
        tokenizer,
        image_token_id="<|image|>",
        video_token_id="<|video|>",
        audio_token_id="<|audio|>",
        boi_token_id="<|image>",
        eoi_token_id="<image|>",
        boa_token_id="<|audio>",
        eoa_token_index="<audio|>",
    )


def _gemma4_processor(tokenizer: Any, template: str) -> Any:
    return Gemma4Processor(
        Gemma4AudioFeatureExtractor(),
        Gemma4ImageProcessor(**PATCHES),
        tokenizer,
        Gemma4VideoProcessor(do_sample_frames=False, **PATCHES),
        chat_template=template,
        image_seq_length=70,
    )


def _gemma4_config(tokenizer: Any) -> Any:
    text = text_config(
        tokenizer,
        "gemma4_text",
        head_dim=16,
        global_head_dim=16,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=vocabulary_size(tokenizer),
        num_hidden_layers=4,
        num_kv_shared_layers=2,  # as in E2B and E4B: the last layers read the keys and values of earlier ones
        layer_types=["sliding_attention", "full_attention"] * 2,
        sliding_window=64,
        use_bidirectional_attention=None,
        final_logit_softcapping=30.0,
    )
    return Gemma4Config(
        text_config=text | {"pad_token_id": ids(tokenizer, pad="<pad>")["pad"]},
        vision_config=VISION,
        audio_config=None,
        tie_word_embeddings=True,
        **_mark_ids(tokenizer),
    )


def _encoder_processor(tokenizer: Any, template: str) -> Any:
    return EmbeddingGemma2Processor(
        Gemma4AudioFeatureExtractor(),
        Gemma4ImageProcessor(**PATCHES),
        tokenizer,
        EmbeddingGemma2VideoProcessor(do_sample_frames=False, **PATCHES),
        chat_template=template,
        image_seq_length=70,
    )


def _encoder_config(tokenizer: Any) -> Any:
    text = text_config(
        tokenizer,
        "embedding_gemma2_text",
        head_dim=16,
        global_head_dim=16,
        num_global_key_value_heads=1,
        hidden_size_per_layer_input=8,
        embedding_dim=32,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=64,
    )
    return EmbeddingGemma2Config(
        text_config=text | {"pad_token_id": ids(tokenizer, pad="<pad>")["pad"]},
        vision_config=VISION,
        audio_config=None,
        **_mark_ids(tokenizer),
    )


def _paligemma_processor(tokenizer: Any, template: str) -> Any:
    images = SiglipImageProcessor(size=SQUARE, image_seq_length=(SIDE // PATCH) ** 2, **GREY)
    return PaliGemmaProcessor(images, tokenizer, chat_template=template)


def _paligemma_config(tokenizer: Any) -> Any:
    return PaliGemmaConfig(
        text_config=text_config(tokenizer, "gemma", head_dim=16),
        vision_config=tower_config("siglip_vision_model", vision_use_head=False),
        projection_dim=64,
        hidden_size=64,
        tie_word_embeddings=True,
        **ids(tokenizer, image_token_index="<image>"),
    )


FAMILIES = {
    "gemma3": TinyFamily(
        (
            *("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
            *("<image_soft_token>", "<start_of_image>", "<end_of_image>"),
        ),
        {"bos_token": "<bos>", "eos_token": "<end_of_turn>", "pad_token": "<pad>"},
        chat_template("<start_of_turn>ROLE\n", "<end_of_turn>\n", "<start_of_image>", begin="<bos>", assistant="model"),
        _gemma3_processor,
        _gemma3_config,
        {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
    ),
    "gemma4": TinyFamily(
        ("<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", *MARKS),
        {"bos_token": "<bos>", "eos_token": "<turn|>", "pad_token": "<pad>"},
        chat_template("<|turn>ROLE\n", "<turn|>\n", "<|image|>", "<|video|>", begin="<bos>", assistant="model"),
        _gemma4_processor,
        _gemma4_config,
        MARK_ROLES,
    ),
    "paligemma": TinyFamily(
        (
            *("<pad>", "<eos>", "<bos>", "<image>"),
            *(f"<loc{place:04}>" for place in range(1024)),
            *(f"<seg{code:03}>" for code in range(128)),
        ),
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        PaliGemma.template,
        _paligemma_processor,
        _paligemma_config,
        {"image_token": "<image>"},
    ),
}
"""Model type → how to build its tiny model."""
ENCODERS = {
    "embedding_gemma2": TinyFamily(
        ("<pad>", "<eos>", "<bos>", *MARKS),
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        EmbeddingGemma.template,
        _encoder_processor,
        _encoder_config,
        MARK_ROLES,
    ),
}
"""The same of encoders."""
