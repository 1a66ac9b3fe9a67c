"""A real Qwen3-VL of 1.5 M parameters with its tokenizer and processor, built offline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from embedrl.data.world import vocabulary

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# One token each, so that a T-CoT of the world stays under 70 tokens.
MARKUP = (
    *(f"<{slash}{tag}>" for tag in ("thinking", "rethink", "answer") for slash in ("", "/")),
    *(space + '{"' + cue for space in ("", " ") for cue in ('bbox_2d": [[', 'key_frames": [', 'text_keywords": [')),
    "], [",
    "]]}",
    "]}",
    "Summarize the above content in one word:",
    # A place in one token is read off the picture at once; in two, its column is learned long after its row.
    *(space + place for place in vocabulary.PLACES for space in ("", " ")),
    *(f"<{i / 2:.1f} seconds>" for i in range(32)),
)
PUNCTUATION = ".,:;?!\"'()[]{}<>/-+=_*&%$#@|"
PATCH, MERGE = 8, 2
IMAGE_SIDE, FRAME_SIDE = 48, 32
# A square picture becomes 48 x 48, and a page's row of 96 x 32 still enters at its own resolution.
MIN_PIXELS, MAX_PIXELS = 48 * 48, 56 * 56
ROOM = 64  # the embedding has rows to spare, rounded up to this, so that `<emb>` needs no resizing

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' or 'image' in part -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part.type == 'video' or 'video' in part -%}{{- '<|video_pad|>' -}}
{%- else -%}{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def build_tokenizer(
    words: Iterable[str], special: Sequence[str] = SPECIAL_TOKENS, **options: Any
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer in which each of `words` is one token, with and without the space before it.

    Any other text falls back to its bytes, so nothing is unknown.

    Args:
        words: The words and numbers that deserve a token of their own, without spaces.
        special: The special tokens.
        options: What a `PreTrainedTokenizerFast` takes besides, such as the roles of special tokens.
    """
    vocab = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    space = "Ġ"
    for word in (*dict.fromkeys(words), "user", "assistant", *PUNCTUATION, "\n\n"):
        # The vocabulary is written in ByteLevel's alphabet, one printable character a byte.
        for text in (word, " " + word):
            level = "".join(
                piece for piece, _ in pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(text)
            )
            vocab.setdefault(level, len(vocab))
    vocab.setdefault(space, len(vocab))
    # Without merges, `ignore_merges` is what makes a whole word one token.
    core = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    pieces = Regex(r" ?\d+| ?[A-Za-z]+| ?[^\sA-Za-z\d]|\n+|\s")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pieces, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    core.add_tokens([AddedToken(token, special=False, normalized=False) for token in MARKUP])
    roles = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "model_max_length": 8192}
    return PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **roles | options)


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLProcessor:
    """The processor of the tiny model: 48-pixel images (9 tokens) and 32-pixel frames (4 tokens each)."""
    # With temporal_patch_size 1 every frame is a step of its own, with its own timestamp.
    patches = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 1}
    normalise = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    images = Qwen2VLImageProcessor(
        size={"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}, **patches, **normalise
    )
    videos = Qwen3VLVideoProcessor(
        size={"shortest_edge": FRAME_SIDE**2 // 2, "longest_edge": 64 * FRAME_SIDE**2},
        max_video_tokens=(FRAME_SIDE // (PATCH * MERGE)) ** 2,
        cap_pixels_per_frame=True,
        do_sample_frames=False,
        **patches,
        **normalise,
    )
    return Qwen3VLProcessor(images, tokenizer, videos, chat_template=CHAT_TEMPLATE)


def build_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    """The architecture: 4 text layers of width 128, 2 vision layers of width 96 with one DeepStack level."""
    token = tokenizer.convert_tokens_to_ids
    return Qwen3VLConfig(
        text_config={
            "vocab_size": -(-(len(tokenizer) + 1) // ROOM) * ROOM,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 8192,
            "initializer_range": 0.05,
            "pad_token_id": None,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 96,
            "intermediate_size": 384,
            "num_heads": 4,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 1,
            "out_hidden_size": 128,
            "num_position_embeddings": (IMAGE_SIDE // PATCH) ** 2,
            "deepstack_visual_indexes": [0],
            "initializer_range": 0.05,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        eos_token_id=token("<|im_end|>"),
        pad_token_id=token("<|endoftext|>"),
        tie_word_embeddings=True,
    )


def build_model(config: Qwen3VLConfig, seed: int = 0) -> Qwen3VLForConditionalGeneration:
    """The model with random weights; the same seed gives the same weights and leaves the global RNG alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(config)
        # With the usual small position embedding the columns of a picture stay at chance for thousands of steps.
        nn.init.normal_(model.model.visual.pos_embed.weight, std=0.5)
    model.generation_config.eos_token_id = config.eos_token_id
    model.generation_config.pad_token_id = config.pad_token_id
    return model.eval()


def world_words() -> tuple[str, ...]:
    """Every word and number of the built-in world."""
    return (*vocabulary.words(), *vocabulary.NUMBERS, *map(str, vocabulary.COORDINATES), *map(str, range(10)))
