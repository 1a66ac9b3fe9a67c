"""The chat that asks a Reasoner for the T-CoT of a side. Source: Embed-RL §3.2, F.1, F.2."""

from __future__ import annotations

from typing import Any

from embedrl.errors import DataError
from embedrl.tcot.prompts import Style, prompt, situation
from embedrl.types import Chat, Modality, Pair, Role, Side


def reasoning_chat(side: Side, role: Role, counterpart: Modality, style: Style = "full") -> Chat:
    """The prompt that asks for a side's T-CoT: its pictures, its video, the instruction, its text.

    Args:
        side: The side that the T-CoT is to describe.
        role: Whether it is the query or the target.
        counterpart: Modality of the other half of the pair; the prompt of a target holds nothing else of its query.
        style: `full` explains the format; `brief` is for small models that were trained on it.

    Returns:
        The chat: one user message. Its text part also holds the side's text alone (`side_text`), for models that put
        the instruction elsewhere.

    Raises:
        DataError: If the side is empty or a picture is broken.
    """
    if side.is_empty:
        raise DataError("the side is empty: give it a text, an image or frames")
    content: list[dict[str, Any]] = [{"type": "image", "image": source.load()} for source in side.images]
    if side.frames:
        content.append({"type": "video", "video": [source.load() for source in side.frames], "fps": side.fps})
    instruction = prompt(situation(side.modality, role, counterpart), style)
    text = f"{instruction}\n{side.text}" if side.text.strip() else instruction
    content.append({"type": "text", "text": text, "side_text": side.text})
    return [{"role": "user", "content": content}]


def side_of(pair: Pair, role: Role) -> Side:
    """The half of a pair that has this role."""
    return pair.query if role is Role.QUERY else pair.target


def counterpart_of(pair: Pair, role: Role) -> Modality:
    """Modality of the other half."""
    return (pair.target if role is Role.QUERY else pair.query).modality
