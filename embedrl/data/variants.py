"""Parts of a side's T-CoT as chats of their own: what the Embedder makes of it section by section, or without crops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from embedrl.data.render import SUMMARIZE, add_text
from embedrl.types import Chat, Side

Variant = Literal["none", "thinking", "rethink", "no_evidence"]
"""`none`: the side without its T-CoT; `thinking`: up to the end of that section, with its evidence; `rethink`: up to
the end of that one; `no_evidence`: the whole T-CoT, its crops and key frames left out, its cues printed as they are."""

Content = list[dict[str, Any]]


def variant_chat(chat: Chat, side: Side, variant: Variant) -> Chat:
    """One variant of a chat that `render` made, with the same pictures.

    Args:
        chat: The side with its whole T-CoT (`RenderOptions.tcot: full`).
        side: The side.
        variant: What to keep.
    """
    content = chat[0]["content"][:-1]
    lead = len(side.images) + bool(side.frames) + bool(side.text.strip())
    made = list(content[:lead])
    if len(content) > lead:  # else there is no T-CoT to leave anything of out
        evidence = content[lead + 1 : -1]
        after = content[-1]["text"] if evidence else content[-1]["text"].removeprefix("\n")
        _KEEP[variant](made, content[lead], evidence, after)
    add_text(made, SUMMARIZE)
    return [{"role": "user", "content": made}, *chat[1:]]


def _none(made: Content, before: dict[str, Any], evidence: Content, after: str) -> None:
    """Adds nothing."""


def _thinking(made: Content, before: dict[str, Any], evidence: Content, after: str) -> None:
    made += [before, *evidence]


def _rethink(made: Content, before: dict[str, Any], evidence: Content, after: str) -> None:
    made += [before, *evidence]
    head, closing, _ = after.partition("</rethink>")
    add_text(made, head + closing)


def _no_evidence(made: Content, before: dict[str, Any], evidence: Content, after: str) -> None:
    made.append(before)
    add_text(made, after)


_KEEP: dict[Variant, Callable[[Content, dict[str, Any], Content, str], None]] = {
    "none": _none,
    "thinking": _thinking,
    "rethink": _rethink,
    "no_evidence": _no_evidence,
}
