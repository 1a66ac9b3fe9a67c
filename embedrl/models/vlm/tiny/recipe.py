"""What a tiny model of a family is made of, and pieces that several families share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

SIDE, PATCH = 48, 8
SQUARE = {"height": SIDE, "width": SIDE}
ROOM = 64  # the embedding has rows to spare, rounded up to this, so that `<emb>` needs no resizing
GREY: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
"""How the tiny processors normalise pixels."""
TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "initializer_range": 0.05,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
"""A text model of the Llama kind."""
SIGLIP: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.05,
}
"""A vision tower of the SigLIP kind."""


@dataclass(frozen=True)
class TinyFamily:
    """How to build a tiny model of a family.

    Attributes:
        special: Its special tokens.
        roles: Which of them end a turn, fill, and so on: `eos_token`, `pad_token`, `bos_token`.
        template: Its chat template, in the form of the real one.
        processor: Tokenizer → processor.
        config: Tokenizer → configuration.
        extra: More attributes of the tokenizer that name special tokens, such as `image_token`.
        trained: The tokenizer's class if transformers makes it anew of vocabulary and merges: it is trained then.
    """

    special: tuple[str, ...]
    roles: Mapping[str, str]
    template: str
    processor: Callable[[Any, str], Any]
    config: Callable[[Any], Any]
    extra: Mapping[str, str] = field(default_factory=dict)
    trained: Callable[[], Any] | None = None


def vocabulary_size(tokenizer: Any) -> int:
    """Rows of the embedding, with room to spare."""
    return -(-(len(tokenizer) + 1) // ROOM) * ROOM


def text_config(tokenizer: Any, kind: str, **more: Any) -> dict[str, Any]:
    """The configuration of a text model of a type."""
    return TEXT | {"model_type": kind, "vocab_size": vocabulary_size(tokenizer)} | more


def tower_config(kind: str, **more: Any) -> dict[str, Any]:
    """The configuration of a vision tower of a type."""
    return SIGLIP | {"model_type": kind, "image_size": SIDE, "patch_size": PATCH} | more


def ids(tokenizer: Any, **tokens: str) -> dict[str, int]:
    """The ids of tokens by the names of a configuration."""
    return {name: int(tokenizer.convert_tokens_to_ids(token)) for name, token in tokens.items()}


def chat_template(
    opening: str,
    closing: str,
    image: str,
    video: str = "",
    *,
    begin: str = "",
    assistant: str = "assistant",
) -> str:
    """A chat template.

    Args:
        opening: What opens a turn, with `ROLE` for its role.
        closing: What closes it.
        image: What stands for a picture.
        video: What stands for a video.
        begin: What the conversation begins with.
        assistant: How the template calls the assistant.
    """
    before, _, after = opening.partition("ROLE")
    role = f"('{assistant}' if message.role == 'assistant' else message.role)"
    lines = [
        f"{{{{- {begin!r} -}}}}" if begin else "",
        "{%- for message in messages -%}",
        f"{{{{- {before!r} + {role} + {after!r} -}}}}",
        "{%- if message.content is string -%}{{- message.content -}}",
        "{%- else -%}",
        "{%- for part in message.content -%}",
        f"{{%- if part.type == 'image' -%}}{{{{- {image!r} -}}}}",
        f"{{%- elif part.type == 'video' -%}}{{{{- {video!r} -}}}}" if video else "",
        "{%- else -%}{{- part.text -}}",
        "{%- endif -%}",
        "{%- endfor -%}",
        "{%- endif -%}",
        f"{{{{- {closing!r} -}}}}",
        "{%- endfor -%}",
        f"{{%- if add_generation_prompt -%}}{{{{- {before + assistant + after!r} -}}}}{{%- endif -%}}",
    ]
    return "\n".join(line for line in lines if line) + "\n"
