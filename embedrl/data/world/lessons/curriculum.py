"""A curriculum, in stages, of lessons that teach the world to a model from scratch."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from embedrl.data.world.lessons.kinds import LESSONS
from embedrl.data.world.scene import Split
from embedrl.errors import ConfigError
from embedrl.types import Lesson

OBJECTS = (4, 6)
"""Objects in a scene of the task families."""


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum.

    Attributes:
        lessons: Number of lessons of the stage; null in the last stage takes all that remain.
        weights: Share of each kind of lesson, by its name in `embedrl.data.world.lessons.kinds.LESSONS`.
        objects: Fewest and most objects in a scene.
    """

    lessons: int | None
    weights: Mapping[str, float] = field(default_factory=dict)
    objects: tuple[int, int] = OBJECTS

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            ConfigError: If a kind is unknown or there is none.
        """
        if unknown := set(self.weights) - set(LESSONS):
            raise ConfigError(f"stage.weights: no lessons called {sorted(unknown)}; there are {', '.join(LESSONS)}")
        if not self.weights or any(weight < 0 for weight in self.weights.values()) or not sum(self.weights.values()):
            raise ConfigError("stage.weights: give at least one kind of lesson a positive weight")


class WorldLessons:
    """Lessons made on the fly; implements `LessonSource`. Lesson `i` is a pure function of (split, seed, i).

    Args:
        stages: The curriculum, in order.
        size: Number of lessons.
        split: The split whose pictures are used; `train` shows combinations of train only.
        seed: Another seed, other lessons.
    """

    def __init__(self, stages: Sequence[Stage], size: int, split: Split = "train", seed: int = 0) -> None:
        if not stages or any(stage.lessons is None for stage in stages[:-1]):
            raise ConfigError("stages: every stage but the last needs its number of lessons")
        self.name = f"world/{split}"
        self.stages, self.size, self.split, self.seed = tuple(stages), size, split, seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Lesson:
        """Lesson `index`; its stage is where `index` falls in the curriculum."""
        if not 0 <= index < self.size:
            raise IndexError(index)
        rng = random.Random(f"{self.split}/{self.seed}/{index}")
        left = index
        for stage in self.stages:
            if stage.lessons is None or left < stage.lessons:
                break
            left -= stage.lessons
        kinds = list(stage.weights)
        return LESSONS[rng.choices(kinds, list(stage.weights.values()))[0]](rng, self.split, stage.objects)


class WorldExam:
    """The same number of held-out lessons of every kind; implements `LessonSource`.

    Args:
        kinds: Kinds of lessons; empty means all.
        each: Lessons of each kind.
        split: `val` or `test`: their pictures hold combinations that train never shows.
        seed: Another seed, other lessons.
    """

    def __init__(self, kinds: Sequence[str] = (), each: int = 64, split: Split = "val", seed: int = 0) -> None:
        self.name = f"world/{split}"
        # `Stage` checks the names.
        self.kinds = tuple(Stage(None, dict.fromkeys(kinds or LESSONS, 1.0)).weights)
        self.each, self.split, self.seed = each, split, seed

    def __len__(self) -> int:
        return len(self.kinds) * self.each

    def __getitem__(self, index: int) -> Lesson:
        """Lesson `index`: the kinds come one after another."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        kind, number = divmod(index, self.each)
        rng = random.Random(f"{self.split}/exam/{self.seed}/{self.kinds[kind]}/{number}")
        return LESSONS[self.kinds[kind]](rng, self.split, OBJECTS)
