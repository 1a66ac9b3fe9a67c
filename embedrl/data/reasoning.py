"""What a Reasoner reads, and T-CoTs as lessons for it. Source: Embed-RL §3.2, F.1, F.2."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

from embedrl.data.source import PairSource
from embedrl.errors import ConfigError, DataError
from embedrl.tcot.parse import parse
from embedrl.tcot.prompts import Style, prompt, situation
from embedrl.types import Chat, Lesson, Modality, Pair, Role, Side

_GOLD = {Modality.TEXT: "keywords", Modality.IMAGE: "boxes", Modality.VIDEO: "frames"}


def reasoning_chat(side: Side, role: Role, counterpart: Modality, style: Style = "full") -> Chat:
    """The prompt that asks for a side's T-CoT: its pictures, its video, the instruction, its text.

    Args:
        side: The side to write up.
        role: Whether it is the query or the target.
        counterpart: Modality of the other half of the pair; a target is written up without any other sight of it.
        style: `full` for models that must be told the format, `brief` for small ones that were taught it.

    Returns:
        The chat: one user message.

    Raises:
        DataError: If the side is empty or a picture is broken.
    """
    if side.is_empty:
        raise DataError("the side is empty: give it a text, an image or frames")
    content: list[dict[str, Any]] = [{"type": "image", "image": source.load()} for source in side.images]
    if side.frames:
        content.append({"type": "video", "video": [source.load() for source in side.frames], "fps": side.fps})
    instruction = prompt(situation(side.modality, role, counterpart), style)
    content.append({"type": "text", "text": f"{instruction}\n{side.text}" if side.text.strip() else instruction})
    return [{"role": "user", "content": content}]


def side_of(pair: Pair, role: Role) -> Side:
    """The half of a pair that has this role."""
    return pair.query if role is Role.QUERY else pair.target


def counterpart_of(pair: Pair, role: Role) -> Modality:
    """Modality of the other half."""
    return (pair.target if role is Role.QUERY else pair.query).modality


class TCoTLessons:
    """The T-CoTs of pairs, both sides of every pair; implements `LessonSource`.

    The reply of a lesson is the side's own T-CoT; its cues and answer are the gold of validation, so the teacher of the
    validation pairs is the one that the figures refer to.

    Args:
        sources: The data sets; every side must have a T-CoT.
        style: Style of the prompt.
        roles: Which sides: `query`, `target` or both.
        limit: Use the first so many pairs of every data set; None takes all.

    Raises:
        ConfigError: If there is no source or no role.
    """

    def __init__(
        self,
        sources: Sequence[PairSource],
        style: Style = "full",
        roles: Sequence[Literal["query", "target"]] = ("query", "target"),
        limit: int | None = None,
    ) -> None:
        if not sources or not roles:
            raise ConfigError("T-CoT lessons need at least one source and one role")
        self.sources, self.style, self.roles = list(sources), style, [Role(role) for role in roles]
        sizes = [len(source) if limit is None else min(limit, len(source)) for source in sources]
        self._ends = list(accumulate(size * len(self.roles) for size in sizes))
        self.name = ", ".join(source.name for source in sources)

    def __len__(self) -> int:
        """Number of sides."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> Lesson:
        """Lesson `index`: the sides of a pair come one after another.

        Raises:
            DataError: If the pair is broken or its side has no T-CoT.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._ends, index)
        row, which = divmod(index - (self._ends[number - 1] if number else 0), len(self.roles))
        pair, role = self.sources[number][row], self.roles[which]
        return tcot_lesson(pair, role, self.style)


def tcot_lesson(pair: Pair, role: Role, style: Style) -> Lesson:
    """One side of a pair as a lesson.

    Raises:
        DataError: If the side has no T-CoT or cannot be shown; the message names `dataset/id`.
    """
    side, where = side_of(pair, role), f"{pair.dataset}/{pair.id} {role}"
    if not side.tcot.strip():
        raise DataError(f"{where}: no T-CoT to learn from: annotate the data set first")
    try:
        chat = reasoning_chat(side, role, counterpart_of(pair, role), style)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    read = parse(side.tcot, side.modality, len(side.frames) or None).tcot
    cues = read.cues.of(side.modality)
    gold = {"modality": str(side.modality), "answer": read.answer, _GOLD[side.modality]: cues}
    return Lesson(chat, side.tcot, f"{pair.dataset.rpartition('/')[2]}_{role}", gold)
