"""The question which of numbered T-CoTs fits a side: what a discriminator reads. Source: Embed-RL §3.3, Eq. 5."""

from __future__ import annotations

from collections.abc import Sequence

from embedrl.tcot.prompts import Style
from embedrl.tcot.schema import clean_text
from embedrl.types import Chat, Role
from embedrl.utils.reserved_words import escape

_WORDS = {
    Role.QUERY: ("search query", "results it may be looking for", "result it is looking for"),
    Role.TARGET: ("search result", "queries that may be looking for it", "query that is looking for it"),
}
_BRIEF = {Role.QUERY: "target", Role.TARGET: "query"}


def match_prompt(role: Role, text: str, notes: str, candidates: Sequence[str], style: Style = "full") -> str:
    """The question. The candidates' own texts stay out: they would give the partner away.

    Args:
        role: Role of the side that is asked about; the candidates have the other one.
        text: The side's text; may be empty.
        notes: Its T-CoT.
        candidates: The candidates' T-CoTs, in the order of their numbers, from 1.
        style: `full` explains the question; `brief` is for small models that were trained on it.

    >>> print(match_prompt(Role.QUERY, "a red star", "so red", ["a star", "a circle"], "brief"))
    query : a red star
    so red
    <BLANKLINE>
    a star [1]
    <BLANKLINE>
    a circle [2]
    <BLANKLINE>
    which target matches ?
    """
    text = text.strip()
    if style == "brief":
        # A small model that reads from left to right knows a candidate when its number comes.
        parts = [
            "\n".join([f"{role} : {text}".rstrip(), notes]),
            *(f"{candidate} [{number}]" for number, candidate in enumerate(candidates, start=1)),
            f"which {_BRIEF[role]} matches ?",
        ]
    else:
        what, options, counterpart = _WORDS[role]
        parts = [
            f"Below are notes on a {what}, then numbered notes on {len(candidates)} {options}.",
            *([f"Text of the {what}: {text}"] if text else []),
            f"Notes on the {what}: {notes}",
            *(f"[{number}] {candidate}" for number, candidate in enumerate(candidates, start=1)),
            f"Which notes describe the {counterpart} best? Reply with its number only, from 1 to {len(candidates)}.",
        ]
    return escape(clean_text("\n\n".join(parts)))


def match_chat(prompt: str) -> Chat:
    """The question as one user turn."""
    return [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
