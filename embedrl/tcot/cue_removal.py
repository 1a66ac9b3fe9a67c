"""A T-CoT's text without its cues, whatever form they have. Source: Embed-RL §4.3 (ablation of evidence)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from embedrl.tcot.cues import find_groups
from embedrl.tcot.schema import CUE_KEY

_NAMES = "|".join(CUE_KEY.values())
_NAME = re.compile(rf"\b(?:{_NAMES})\b|\\u")  # JSON may spell a key with \u escapes
_OBJECT = re.compile(r"""\{(?:[^{}"]|"(?:[^"\\]|\\.)*")*\}""")
# `key: values` outside of a closed {...}, with what is left of its braces and quotes.
_LOOSE = re.compile(
    rf"""\s{{0,8}}(?:\{{\s{{0,8}})?["']?\b(?:{_NAMES})\b["']?\s{{0,8}}[:=]\s{{0,8}}(?=[\[\d"'])(?:"""
    r"""\[[^\[\]<>]*\][}\s]{0,8}|"""  # a closed list, as of keywords
    r"""[\[\]\s\d.,+-]*[}]{0,4}|"""  # numbers, closed or not
    r""")(?:["'][^"'\n<>]*["']?[,\s\]}]{0,8})*"""  # words in quotes, of a list that is not closed
)
_ROUNDS = 8


def without_cues(text: str, objects: bool = False) -> str:
    """Take out the cues that the lenient reading sees: objects, nested ones, and `key: values` that is not JSON.

    Args:
        text: A T-CoT or a part of it.
        objects: Take out other `{...}` too, as stand in a T-CoT that follows the template.

    Returns:
        The text; unchanged if it holds no cue.
    """
    for _ in range(_ROUNDS):  # what is taken out may leave a brace whose partner comes later
        if not _NAME.search(text):
            break
        groups = [(start, end) for start, end in find_groups(text) if _NAME.search(text, start, end)]
        shorter = _LOOSE.sub(" ", _without(text, groups))
        if shorter == text:
            break
        text = shorter
    else:
        text = re.sub(rf"\b(?:{_NAMES})\b", " ", text)
    return _without(text, (match.span() for match in _OBJECT.finditer(text))) if objects else text


def _without(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text without these parts and the spaces before them."""
    kept, end_of_last = [], 0
    for start, end in spans:
        kept.append(text[end_of_last:start].rstrip())
        end_of_last = end
    return "".join([*kept, text[end_of_last:]])
