"""T-CoTs as supervised lessons for a Reasoner. Source: Embed-RL §3.2, F.1, F.2."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

from embedrl.data.sources import PairSource
from embedrl.errors import ConfigError, DataError, TCoTError
from embedrl.tcot.chat import counterpart_of, reasoning_chat, side_of
from embedrl.tcot.parser import parse
from embedrl.tcot.prompts import Style
from embedrl.types import Lesson, Modality, Pair, Role

_GOLD = {Modality.TEXT: "keywords", Modality.IMAGE: "boxes", Modality.VIDEO: "frames"}


class TCoTLessons:
    """The T-CoTs of pairs, both sides of every pair; implements `LessonSource`.

    The reply of a lesson is the side's own T-CoT; its cues and answer are the reference in validation, so the metrics
    measure agreement with the teacher of the validation pairs.

    Args:
        sources: The data sets; every side must have a T-CoT.
        style: Style of the prompt.
        roles: Which sides: `query`, `target` or both.
        limit: Use only this many pairs of every data set, the first ones; None means all.
        on_bad_tcot: A T-CoT that breaks the format: `raise`, it is a bad sample; or learn it as it is (`lenient`).

    Raises:
        ConfigError: If there is no source or no role.
    """

    def __init__(
        self,
        sources: Sequence[PairSource],
        style: Style = "full",
        roles: Sequence[Literal["query", "target"]] = ("query", "target"),
        limit: int | None = None,
        on_bad_tcot: Literal["raise", "lenient"] = "raise",
    ) -> None:
        if not sources or not roles:
            raise ConfigError("T-CoT lessons need at least one source and one role")
        self.on_bad_tcot = on_bad_tcot
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
            DataError: If the pair is broken, or its side has no T-CoT or one that breaks the format and
                `on_bad_tcot` is `raise`.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._ends, index)
        row, which = divmod(index - (self._ends[number - 1] if number else 0), len(self.roles))
        pair, role = self.sources[number][row], self.roles[which]
        return tcot_lesson(pair, role, self.style, self.on_bad_tcot)


def tcot_lesson(pair: Pair, role: Role, style: Style, on_bad_tcot: Literal["raise", "lenient"] = "raise") -> Lesson:
    """One side of a pair as a lesson.

    Raises:
        DataError: If the side has no T-CoT, one that breaks the format and `on_bad_tcot` is `raise`, or cannot be
            shown; the message names `dataset/id`.
    """
    side, where = side_of(pair, role), f"{pair.dataset}/{pair.id} {role}"
    if not side.tcot.strip():
        raise TCoTError(f"{where}: no T-CoT to learn from: annotate the data set first")
    try:
        chat = reasoning_chat(side, role, counterpart_of(pair, role), style)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    result = parse(side.tcot, side.modality, len(side.frames) or None)
    if result.problems and on_bad_tcot == "raise":
        problems = "; ".join(problem.message for problem in result.problems)
        raise TCoTError(f"{where}: malformed T-CoT: {problems} (write it again, or set on_bad_tcot: lenient)")
    read = result.tcot
    cues = read.cues.of(side.modality)
    gold = {"modality": str(side.modality), "answer": read.answer, _GOLD[side.modality]: cues}
    return Lesson(chat, side.tcot, f"{pair.dataset.rpartition('/')[2]}_{role}", gold)
