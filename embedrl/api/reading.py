"""Items of a call to `encode` as sides, with the T-CoTs that they are given or that a Reasoner writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from embedrl.api.items import Item, to_side, without_marks
from embedrl.api.reasoner import Reasoner
from embedrl.api.thought import Thought
from embedrl.data.on_bad import BadSample, OnBadMode
from embedrl.errors import DataError
from embedrl.types import Modality, Role, Side


@dataclass(frozen=True)
class ItemReader:
    """Reads items for one model.

    Attributes:
        num_frames: Frames sampled from a video's file or folder.
        marks: The words that mark pixels for the model.
    """

    num_frames: int
    marks: re.Pattern[str]

    def side(self, item: Item, instruction: str | None) -> Side:
        """See `Embedder.side`."""
        side = to_side(item, self.num_frames)
        text = " ".join(part.strip() for part in (instruction or "", side.text) if part.strip())
        return without_marks(replace(side, text=text), self.marks)

    def read(
        self, item: Item, position: int, instruction: str | None, tcot: Any, on_bad: OnBadMode
    ) -> Side | BadSample:
        """An item as a side, or what is wrong with it.

        Args:
            item: The item.
            position: Its position, for errors.
            instruction: Put in front of its text.
            tcot: Its T-CoT, as a text or a thought; None means its own.
            on_bad: An item that cannot be read: `raise`, or `skip`.

        Raises:
            DataError: If it cannot be read and `on_bad` is `raise`.
        """
        try:
            side = self.side(item, instruction)
            if tcot is None:
                return side
            if not isinstance(tcot, str | Thought):
                raise DataError(f"a T-CoT of type {type(tcot).__name__}: give a text or a Reasoner's thought")
            return side.with_tcot(tcot.text if isinstance(tcot, Thought) else tcot)
        except DataError as error:
            named = DataError(f"item {position}: {error}", error.cause)
            if on_bad == "skip":
                return BadSample.of(named, "items", f"item {position}")
            raise named from error


def with_replies(
    sides: Sequence[Side | BadSample], start: int, writer: Reasoner, role: Role, other: Modality, on_bad: OnBadMode
) -> list[Side | BadSample]:
    """The sides, those without a T-CoT with what a Reasoner writes.

    Args:
        sides: The sides.
        start: Position of the first, for errors.
        writer: The Reasoner.
        role: Whether they search, or are what others search for.
        other: Modality of the other half.
        on_bad: A side that cannot be shown: `raise`, or `skip`.

    Raises:
        DataError: If a side cannot be shown and `on_bad` is `raise`.
    """
    bare = {i: side for i, side in enumerate(sides) if isinstance(side, Side) and not side.tcot.strip()}
    names = [f"item {start + i}" for i in bare]
    replies = writer.write(list(bare.values()), role=role, counterpart=other, names=names, on_bad=on_bad)
    made = {
        i: reply if isinstance(reply, BadSample) else bare[i].with_tcot(reply)
        for i, reply in zip(bare, replies, strict=True)
    }
    return [made.get(i, side) for i, side in enumerate(sides)]
