"""A curriculum: lessons of one source, then of another."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from embedrl.data.sft_batches import LessonSource
from embedrl.errors import ConfigError
from embedrl.types import Lesson


@dataclass
class LessonStage:
    """One stage of a curriculum.

    Attributes:
        source: Where its lessons come from.
        lessons: How many of them: drawn without repetition, as long as there are others.
    """

    source: LessonSource
    lessons: int


class LessonStages:
    """Stages of lessons, one after another, each in a random order; a `LessonSource` for `shuffle: false`.

    Args:
        stages: The stages.
        seed: Seed of the orders.

    Raises:
        ConfigError: If there is no stage, or one is empty.
    """

    def __init__(self, stages: list[LessonStage], seed: int = 0) -> None:
        if not stages or any(stage.lessons < 1 or not len(stage.source) for stage in stages):
            raise ConfigError("stages: give one or more, each with a source that is not empty and 1 or more lessons")
        self.stages, self.seed = stages, seed
        self._ends = list(accumulate(stage.lessons for stage in stages))
        self.name = ", then ".join(stage.source.name for stage in stages)

    def __len__(self) -> int:
        """Number of lessons."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> Lesson:
        """Lesson `index`.

        Raises:
            DataError: If the row is broken; the message names `dataset/id`.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._ends, index)
        source = self.stages[number].source
        turn, place = divmod(index - (self._ends[number - 1] if number else 0), len(source))
        return source[_order(len(source), f"{self.seed}/{number}/{turn}")[place]]


@lru_cache(maxsize=8)
def _order(size: int, seed: str) -> Sequence[int]:
    return random.Random(seed).sample(range(size), size)
