"""Lessons as batches for supervised training (SFT): the contracts of a source and a preprocessor, order, batches."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from torch.utils.data import Sampler

from embedrl.data.checked_rows import Drawn
from embedrl.data.inputs import GeneratorPreprocessor, ModelInputs
from embedrl.data.on_bad import BadSample
from embedrl.errors import ConfigError, DataError
from embedrl.types import Lesson


class LessonSource(Protocol):
    """A data set of lessons with random access. Picklable: loader workers hold a copy."""

    @property
    def name(self) -> str:
        """Name of the data set: shown in errors."""
        ...

    def __len__(self) -> int:
        """Number of lessons."""
        ...

    def __getitem__(self, index: int) -> Lesson:
        """Lesson `index`, `0 <= index < len(self)`: a pure function of the index.

        Raises:
            DataError: If the row is broken; the message names `dataset/id`.
        """
        ...


@dataclass
class LessonBatch:
    """Lessons as model inputs.

    Attributes:
        micro_batches: For training with `labels`; for scoring, prompts alone.
        lessons: The lessons in the order of the micro-batches' rows, without their pictures.
        skipped: The bad lessons that others took the place of in training, or that are left out in scoring.
    """

    micro_batches: list[ModelInputs]
    lessons: list[Lesson]
    skipped: list[BadSample] = field(default_factory=list)


@dataclass(frozen=True)
class LessonRows:
    """The lessons of a source by number; implements `Rows`.

    Attributes:
        source: The lessons.
    """

    source: LessonSource

    def __len__(self) -> int:
        """Number of lessons."""
        return len(self.source)

    def __getitem__(self, key: int) -> Lesson:
        """The lesson of a number.

        Raises:
            DataError: If the row is bad.
        """
        return self.source[key]

    def after(self, key: int) -> int:
        """The number of the next lesson."""
        return (key + 1) % len(self.source)

    def named(self, key: int) -> tuple[str, str]:
        """Names of the source and of the lesson."""
        return self.source.name, f"lesson {key}"


class LessonSampler(Sampler[list[int]]):
    """Batches of row numbers: in order (a curriculum is one) or shuffled anew every epoch; the last part is left out.

    They form one endless stream: an epoch is a stretch of it.

    Args:
        size: Number of lessons.
        batch_size: Lessons in a global batch (all ranks together).
        shuffle: Whether to shuffle.
        seed: Seed of the shuffle.
        rank: This process: it gets its share of every batch.
        world_size: Number of processes.

    Raises:
        ConfigError: If there is no full batch, or it cannot be shared out.
    """

    def __init__(
        self, size: int, batch_size: int, shuffle: bool = False, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise ConfigError(f"data.batch_size {batch_size} is not a multiple of the {world_size} processes")
        if size < batch_size:
            raise ConfigError(f"data.train has {size} lessons, fewer than data.batch_size {batch_size}")
        self.size, self.batch_size, self.shuffle, self.seed = size, batch_size, shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.start = 0

    def __len__(self) -> int:
        """Batches an epoch."""
        return self.size // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        """This rank's share of an epoch of batches, from batch `start` of the stream on."""
        share = self.batch_size // self.world_size
        rows: Sequence[int] = range(self.size)
        shuffled = None
        for number in range(self.start, self.start + len(self)):
            epoch, batch = divmod(number, len(self))
            if self.shuffle and shuffled != epoch:
                rows = random.Random(f"{self.seed}/{epoch}").sample(range(self.size), self.size)
                shuffled = epoch
            first = batch * self.batch_size + self.rank * share
            yield list(rows[first : first + share])


class LessonCollator:
    """Makes a `LessonBatch`; lessons of like length share a micro-batch, so that little is padded.

    Args:
        preprocessor: The generator's preprocessor.
        micro_batch_size: Lessons of like length that go through the model at once: bounds memory and saves padding.
        train: Whether the replies go in, as labels.
        source: Name of the data set for errors.
    """

    def __init__(self, preprocessor: GeneratorPreprocessor, micro_batch_size: int, train: bool, source: str) -> None:
        if micro_batch_size < 1:
            raise ConfigError(f"data.micro_batch_size is {micro_batch_size}: give 1 or more")
        self.preprocessor, self.micro_batch_size = preprocessor, micro_batch_size
        self.train, self.source = train, source

    def __call__(self, lessons: list[Lesson]) -> LessonBatch:
        """Process the lessons of one batch.

        Raises:
            DataError: If a lesson cannot be processed; `check` names it.
        """
        # About four characters a token, as in `length`.
        order = sorted(lessons, key=lambda x: self.preprocessor.length(x.chat) + len(x.reply) // 4 * self.train)
        count = -(-len(order) // self.micro_batch_size)
        cuts = [len(order) * i // max(count, 1) for i in range(count + 1)]
        micro_batches = [self._process(order[a:b]) for a, b in pairwise(cuts)]
        return LessonBatch(micro_batches, [Lesson([], x.reply, x.kind, x.gold) for x in order])

    def check(self, drawn: Drawn[Lesson]) -> None:
        """Process one lesson alone.

        Raises:
            DataError: If it cannot be processed; the message names it.
        """
        if drawn.sample is None:
            return
        try:
            self([drawn.sample])
        except DataError as error:
            raise DataError(f"{self.source}, lesson {drawn.key}: {error}") from error

    def _process(self, lessons: list[Lesson]) -> ModelInputs:
        if self.train:
            return self.preprocessor.lessons(lessons)
        return self.preprocessor.prompts([lesson.chat for lesson in lessons])
