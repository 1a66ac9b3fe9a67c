"""Replay: lessons of an earlier training among the new ones, so that a model does not forget them."""

from __future__ import annotations

from embedrl.data.sft_batches import LessonSource
from embedrl.errors import ConfigError
from embedrl.types import Lesson


class Replay:
    """Every `every`-th lesson comes from `replayed`, the others from `lessons`; implements `LessonSource`.

    Fine-tuning on one task alone makes a model forget others, including skills that the task itself needs (catastrophic
    forgetting). Replaying lessons that the base learned prevents it.

    Args:
        lessons: The training's own lessons; each comes once.
        replayed: The lessons to mix in, from the first one on; begun again when they run out.
        every: One in so many lessons is replayed.

    Raises:
        ConfigError: If `every` is below 2, or either source is empty.
    """

    def __init__(self, lessons: LessonSource, replayed: LessonSource, every: int) -> None:
        if every < 2:
            raise ConfigError(f"replay: every is {every}: give 2 or more (2 replays every other lesson)")
        for source in (lessons, replayed):
            if not len(source):
                raise ConfigError(f"replay: {source.name} has no lessons")
        self.lessons, self.replayed, self.every = lessons, replayed, every
        self.name = f"{lessons.name} + {replayed.name}"

    def __len__(self) -> int:
        """Number of lessons with which each of `lessons` occurs once."""
        return len(self.lessons) + -(-len(self.lessons) // (self.every - 1))

    def __getitem__(self, index: int) -> Lesson:
        """Lesson `index`; 0, `every`, 2 · `every` … are replayed."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        turn, place = divmod(index, self.every)
        if place == 0:
            return self.replayed[turn % len(self.replayed)]
        return self.lessons[index - turn - 1]
