"""Families whose towers read pictures or tiles of one size, or patches of a padded picture."""

from __future__ import annotations

from typing import Any

from transformers import (
    GotOcr2ImageProcessor,
    Idefics3Config,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLConfig,
    InternVLProcessor,
    InternVLVideoProcessor,
    Lfm2VlConfig,
    Lfm2VlImageProcessor,
    Lfm2VlProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Mistral3Config,
    PixtralImageProcessor,
    PixtralProcessor,
    SmolVLMConfig,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

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
)

TURNS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
IDEFICS = (
    *("<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>"),
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
)
IDEFICS_ROLES = {"bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>", "pad_token": "<|endoftext|>"}
IDEFICS_TEMPLATE = chat_template("ROLE: ", "<end_of_utterance>\n", "<image>", begin="<|im_start|>")


# ---------------------------------------------------------------- SmolVLM, Idefics 3


def _smolvlm_processor(tokenizer: Any, template: str) -> Any:
    edge = {"size": {"longest_edge": SIDE}, "max_image_size": {"longest_edge": SIDE}}
    images = SmolVLMImageProcessor(do_image_splitting=False, **edge, **GREY)
    sampling = {"max_frames": 16, "fps": 1, "video_size": {"longest_edge": SIDE}}
    videos = SmolVLMVideoProcessor(video_sampling=sampling, **edge, **GREY)
    return SmolVLMProcessor(images, tokenizer, videos, image_seq_len=9, chat_template=template)


def _idefics_processor(tokenizer: Any, template: str) -> Any:
    # Split, as the real ones do: two tiles a side, and the whole.
    edges = {"size": {"longest_edge": 2 * SIDE}, "max_image_size": {"longest_edge": SIDE}}
    images = Idefics3ImageProcessor(do_image_splitting=True, **edges, **GREY)
    return Idefics3Processor(images, tokenizer, image_seq_len=9, chat_template=template)


def _smolvlm_config(tokenizer: Any) -> Any:
    return SmolVLMConfig(
        text_config=text_config(tokenizer, "llama"),
        vision_config=tower_config("smolvlm_vision"),
        scale_factor=2,
        tie_word_embeddings=True,
        **ids(tokenizer, image_token_id="<image>", pad_token_id="<|endoftext|>"),
    )


def _idefics_config(tokenizer: Any) -> Any:
    return Idefics3Config(
        text_config=text_config(tokenizer, "llama"),
        vision_config=tower_config("idefics3_vision"),
        scale_factor=2,
        tie_word_embeddings=True,
        **ids(tokenizer, image_token_id="<image>", pad_token_id="<|endoftext|>"),
    )


# ---------------------------------------------------------------- InternVL, LLaVA-OneVision


def _internvl_processor(tokenizer: Any, template: str) -> Any:
    images = GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=True, max_patches=2, **GREY)
    videos = InternVLVideoProcessor(size=SQUARE, **GREY)
    return InternVLProcessor(images, tokenizer, videos, image_seq_length=9, chat_template=template)


def _internvl_config(tokenizer: Any) -> Any:
    return InternVLConfig(
        text_config=text_config(tokenizer, "qwen2"),
        vision_config=tower_config("internvl_vision", image_size=[SIDE] * 2, patch_size=[PATCH] * 2),
        image_seq_length=9,
        tie_word_embeddings=True,
        **ids(tokenizer, image_token_id="<IMG_CONTEXT>"),
    )


def _llava_processor(tokenizer: Any, template: str) -> Any:
    images = LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=_pinpoints(), **GREY)
    videos = LlavaOnevisionVideoProcessor(size=SQUARE, **GREY)
    return LlavaOnevisionProcessor(
        images,
        tokenizer,
        videos,
        num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=template,
    )


def _llava_config(tokenizer: Any) -> Any:
    return LlavaOnevisionConfig(
        text_config=text_config(tokenizer, "qwen2"),
        vision_config=tower_config("siglip_vision_model", vision_use_head=False),
        image_grid_pinpoints=_pinpoints(),
        tie_word_embeddings=True,
        **ids(tokenizer, image_token_id="<image>", video_token_id="<video>"),
    )


def _pinpoints() -> list[list[int]]:
    return [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE]]


# ---------------------------------------------------------------- LFM2-VL, Mistral 3


def _lfm2_processor(tokenizer: Any, template: str) -> Any:
    images = Lfm2VlImageProcessor(
        encoder_patch_size=PATCH,
        tile_size=SIDE,
        min_image_tokens=4,
        max_image_tokens=9,
        max_tiles=4,
        size=SQUARE,
        **GREY,
    )
    return Lfm2VlProcessor(images, tokenizer, chat_template=template)


def _lfm2_config(tokenizer: Any) -> Any:
    return Lfm2VlConfig(
        text_config=text_config(
            tokenizer, "lfm2", layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False
        ),
        vision_config=SIGLIP
        | {"model_type": "siglip2_vision_model", "patch_size": PATCH, "num_patches": 36, "vision_use_head": False},
        projector_hidden_size=64,
        tie_word_embeddings=True,
        **ids(tokenizer, image_token_id="<image>"),
    )


def _mistral_processor(tokenizer: Any, template: str) -> Any:
    images = PixtralImageProcessor(size={"longest_edge": SIDE}, patch_size=PATCH, **GREY)
    return PixtralProcessor(images, tokenizer, patch_size=PATCH, spatial_merge_size=2, chat_template=template)


def _mistral_config(tokenizer: Any) -> Any:
    vision = {"model_type": "pixtral", "image_size": SIDE, "patch_size": PATCH, "head_dim": 12}
    return Mistral3Config(
        text_config=text_config(tokenizer, "mistral", head_dim=16),
        vision_config={name: value for name, value in SIGLIP.items() if name != "initializer_range"} | vision,
        spatial_merge_size=2,
        tie_word_embeddings=True,
        **ids(tokenizer, image_token_id="[IMG]"),
    )


FAMILIES = {
    "smolvlm": TinyFamily((*IDEFICS, "<video>"), IDEFICS_ROLES, IDEFICS_TEMPLATE, _smolvlm_processor, _smolvlm_config),
    "idefics3": TinyFamily(IDEFICS, IDEFICS_ROLES, IDEFICS_TEMPLATE, _idefics_processor, _idefics_config),
    "internvl": TinyFamily(
        (*TURNS, "<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
        CHATML,
        chat_template("<|im_start|>ROLE\n", "<|im_end|>\n", "<IMG_CONTEXT>\n", "<video>\n"),
        _internvl_processor,
        _internvl_config,
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    ),
    "llava_onevision": TinyFamily(
        (*TURNS, "<image>", "<video>"),
        CHATML,
        chat_template("<|im_start|>ROLE ", "<|im_end|>", "<image>\n", "<video>\n"),
        _llava_processor,
        _llava_config,
    ),
    "lfm2_vl": TinyFamily(
        (
            *(*TURNS, "<|startoftext|>", "<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"),
            *(f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5)),
        ),
        CHATML | {"bos_token": "<|startoftext|>"},
        chat_template("<|im_start|>ROLE\n", "<|im_end|>\n", "<image>", begin="<|startoftext|>"),
        _lfm2_processor,
        _lfm2_config,
        {
            **{"image_token": "<image>", "image_start_token": "<|image_start|>", "image_end_token": "<|image_end|>"},
            "image_thumbnail_token": "<|img_thumbnail|>",
        },
    ),
    "mistral3": TinyFamily(
        ("<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
        """\
{{- '<s>' -}}
{%- for message in messages -%}
{%- set parts = [{'type': 'text', 'text': message.content}] if message.content is string else message.content -%}
{{- '[INST]' if message.role == 'user' -}}
{%- for part in parts -%}{{- '[IMG]' if part.type == 'image' else part.text -}}{%- endfor -%}
{{- '[/INST]' if message.role == 'user' else '</s>' -}}
{%- endfor -%}
""",
        _mistral_processor,
        _mistral_config,
    ),
}
"""Model type → how to build its tiny model."""
