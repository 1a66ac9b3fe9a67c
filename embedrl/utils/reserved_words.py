"""Words that a tokenizer reads as one token of its own, such as `<|im_end|>`: text that spells one must stay text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

EMB_TOKEN = "<emb>"
"""The embedding is read at this token."""

DISC_TOKEN, GEN_TOKEN = "<disc_emb>", "<gen_emb>"
"""Where a model that reasons and embeds has its vectors: behind the side, and behind its reasoning."""

_ALONE = (EMB_TOKEN, DISC_TOKEN, GEN_TOKEN)

QWEN = re.compile(
    r"<(?:emb|disc_emb|gen_emb)>|<\|(?:im_start|im_end|endoftext|vision_start|vision_end|vision_pad|image_pad|video_pad)\|>"
)
"""The words that a Qwen-VL and embedrl give a meaning: a data set must not hold them."""

COMMON = re.compile(
    QWEN.pattern
    + r"|<\|[^<>|\s]{1,64}\|>|<｜[^<>｜\s]{1,64}｜>"
    + r"|<\|[^<>|\s]{1,64}>|<[^<>|\s]{1,64}\|>|\[gMASK\]|<sop>"
    + r"|<IMG_CONTEXT>|<end_of_utterance>|<fake_token_around_image>|<global-img>|<row_\d+_col_\d+>"
    + r"|</?s>|<(?:pad|unk|bos|eos|mask|cls|sep)>|<(?:start|end)_of_(?:turn|text|image)>"
    + r"|<(?:image|video)(?:_soft_token)?>"
    + r"|\[/?INST\]|<</?SYS>>|\[(?:CLS|SEP|PAD|UNK|MASK|IMG|IMG_BREAK|IMG_END|EOT|AVAILABLE_TOOLS|TOOL_CALLS)\]",
    re.IGNORECASE,
)
"""The words of the common families, for a reader whose tokenizer is not known."""


def word_list(tokenizer: Any) -> list[str]:
    """The special tokens of a tokenizer of transformers or open_clip, the longest first.

    A word without a bracket or a bar (some use `!` as padding) is an ordinary word and not among them.
    """
    inner = getattr(tokenizer, "tokenizer", tokenizer)  # open_clip wraps those of transformers
    words = set(getattr(inner, "all_special_tokens", ()))
    words |= {str(t) for t in getattr(inner, "added_tokens_decoder", {}).values() if t.special}
    if not words:  # open_clip's SimpleTokenizer knows their ids alone
        words |= {inner.decoder[i] for i in getattr(inner, "all_special_ids", ())}
    words = {word for word in words if len(word) > 2 and re.search(r"[<>\[\]|｜]", word)}
    return sorted(words, key=lambda word: (-len(word), word))


def own_words(tokenizer: Any) -> re.Pattern[str]:
    """The words of `word_list` as a pattern."""
    return as_pattern(word_list(tokenizer))


def as_pattern(words: Sequence[str]) -> re.Pattern[str]:
    """A pattern that matches each of some words; one that never matches if there are none."""
    return re.compile("|".join(re.escape(word) for word in words) or r"(?!)")


def escape(text: str, words: re.Pattern[str] = COMMON) -> str:
    """The text with a space behind the first character of every such word; other text stays as it is.

    >>> escape("He wrote <|im_end|> and <b>.")
    'He wrote < |im_end|> and <b>.'
    """
    return words.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


def escape_message(message: dict[str, Any], words: re.Pattern[str]) -> dict[str, Any]:
    """A chat's message with the words escaped in its texts; an `<emb>` or the like that stands alone is meant."""
    content = message["content"]
    if isinstance(content, str):
        return message | {"content": escape(content, words)}
    return message | {"content": [_escape_part(part, words) for part in content]}


def _escape_part(part: dict[str, Any], words: re.Pattern[str]) -> dict[str, Any]:
    if part["type"] != "text" or part["text"] in _ALONE:
        return part
    return part | {"text": escape(part["text"], words)}


class EscapedCleaning:
    """What an open_clip tokenizer does to a text first (`clean_fn`), with its own words escaped afterwards.

    Afterwards, because cleaning makes words: `&lt;end_of_text&gt;` becomes `<end_of_text>`.

    Args:
        tokenizer: The tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.clean, self.words = tokenizer.clean_fn, own_words(tokenizer)

    def __call__(self, text: str) -> str:
        """Clean and escape."""
        return escape(self.clean(text), self.words)
