"""The sentences of an answer, its citations, and its text as harmless Markdown."""

from __future__ import annotations

import re
from itertools import pairwise

_CLOSING = r"[\"'”’»)\]*_]*(?:\s*\[\d{1,3}\])*"  # what belongs to a sentence behind its full stop
_END = re.compile(rf"[.!?…]{_CLOSING}(?=\s+[^\sa-z]|\s*\Z)|[。！？]{_CLOSING}|\n")
_CITED = re.compile(r"\[(\d{1,6}(?:\s*,\s*\d{1,6})*)\]")
_MARKS = re.compile(r"[\\`\[\]<>~|&]")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, with the white space around them: joined, they are the text.

    A sentence ends at `.`, `!`, `?` or `…` with white space behind it (what begins with a lower-case letter goes on),
    at their full-width forms, and at the end of a line. Citations such as `[2]` behind a full stop belong to it.

    >>> split_sentences("A fox. [1] It hunts, e.g. mice, at night [2]. 1. Owls do, too.")
    ['A fox. [1]', ' It hunts, e.g. mice, at night [2].', ' 1. Owls do, too.']
    """
    cuts = [0, *(match.end() for match in _END.finditer(text)), len(text)]
    sentences: list[str] = []
    held = ""  # marks of lists and white space: they belong to what follows
    for begin, end in pairwise(cuts):
        held += text[begin:end]
        if any(map(str.isalpha, text[begin:end])):
            sentences.append(held)
            held = ""
    if held.strip() and not sentences:
        return [held]
    if sentences:
        sentences[-1] += held
    return sentences


def cited(text: str) -> list[int]:
    """The numbers of the sources that a text names, each once, in order.

    >>> cited("A fox [2]. It hunts [1, 2].")
    [2, 1]
    """
    return list(dict.fromkeys(int(number) for match in _CITED.findall(text) for number in match.split(",")))


def as_markdown(text: str) -> str:
    r"""Text of a model or an item for a Markdown page: links, pictures, HTML and code in it are shown, not done.

    >>> print(as_markdown("[x](y) <b>bold</b>"))
    \[x\](y) \<b\>bold\</b\>
    """
    return _MARKS.sub(lambda match: f"\\{match[0]}", text)
