"""The Reasoner's data: lessons, their order, and batches of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import Sampler

from embedrl.data.inputs import ModelInputs
from embedrl.data.loader import Loader, ResumableLoader
from embedrl.errors import ConfigError, DataError
from embedrl.types import Chat, Lesson


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


class GeneratorPreprocessor(Protocol):
    """Turns prompts and lessons into model inputs. Picklable and free of weights: it runs in loader workers."""

    def prompts(self, chats: Sequence[Chat]) -> ModelInputs:
        """Process prompts for generation, padded on the left."""
        ...

    def lessons(self, lessons: Sequence[Lesson]) -> ModelInputs:
        """Process lessons for training, with `labels` on the reply alone."""
        ...

    def length(self, chat: Chat) -> int:
        """A cheap estimate of the chat's length in tokens, for grouping chats of like length."""
        ...


@dataclass
class LessonBatch:
    """Lessons as model inputs.

    Attributes:
        micro_batches: For training with `labels`; for scoring, prompts alone.
        lessons: The lessons in the order of the micro-batches' rows, without their pictures.
    """

    micro_batches: list[ModelInputs]
    lessons: list[Lesson]


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
        micro_batch_size: Lessons of like length that go through the model at once; saves padding only.
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
            DataError: If a lesson cannot be processed; the message names the data set.
        """
        # About four characters a token, as in `length`.
        order = sorted(lessons, key=lambda x: self.preprocessor.length(x.chat) + len(x.reply) // 4 * self.train)
        count = -(-len(order) // self.micro_batch_size)
        cuts = [len(order) * i // max(count, 1) for i in range(count + 1)]
        try:
            micro_batches = [self._process(order[a:b]) for a, b in pairwise(cuts)]
        except DataError as error:
            raise DataError(f"{self.source}: {error}") from error
        return LessonBatch(micro_batches, [Lesson([], x.reply, x.kind, x.gold) for x in order])

    def _process(self, lessons: list[Lesson]) -> ModelInputs:
        if self.train:
            return self.preprocessor.lessons(lessons)
        return self.preprocessor.prompts([lesson.chat for lesson in lessons])


class ReasonerDataModule(LightningDataModule):
    """Lessons for `fit`, and held-out lessons whose replies are generated and scored in `validate` and `test`.

    The preprocessor is the one of the model in training (`model.generator`).

    Args:
        batch_size: Lessons in a batch, all processes together.
        micro_batch_size: Lessons of like length that go through the model at once; saves padding only.
        train: The lessons to train on.
        val: The lessons to score on.
        test: The lessons of `test`.
        shuffle: Whether to shuffle the lessons; a curriculum is left in its order.
        generate_batch_size: Prompts that are answered at once in `validate` and `test`, per process.
        seed: Seed of the shuffle.
        num_workers: Loader processes; 0 loads in the training process.
    """

    def __init__(
        self,
        batch_size: int,
        micro_batch_size: int,
        train: LessonSource | None = None,
        val: LessonSource | None = None,
        test: LessonSource | None = None,
        shuffle: bool = True,
        generate_batch_size: int = 32,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.train, self.val, self.test = train, val, test
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size
        self.shuffle, self.seed = shuffle, seed
        self.generate_batch_size, self.num_workers = generate_batch_size, num_workers

    def train_dataloader(self) -> ResumableLoader[LessonBatch]:
        """Batches of lessons with labels.

        Raises:
            ConfigError: If there are no lessons, or they do not fill a batch.
        """
        assert self.trainer is not None
        if self.train is None:
            raise ConfigError("data.train is missing: give a LessonSource to train on")
        sampler = LessonSampler(
            len(self.train),
            self.batch_size,
            self.shuffle,
            self.seed,
            self.trainer.global_rank,
            self.trainer.world_size,
        )
        collator = LessonCollator(self._preprocessor(), self.micro_batch_size, True, self.train.name)
        return ResumableLoader(
            self.train,  # type: ignore[arg-type]
            sampler,  # type: ignore[arg-type]
            collator,
            seed=self.seed,
            num_workers=self.num_workers,
        )

    def val_dataloader(self) -> Sequence[Loader[LessonBatch]]:
        """Prompts of the validation lessons; no loader if there are none."""
        return self._prompts(self.val)

    def test_dataloader(self) -> Sequence[Loader[LessonBatch]]:
        """Prompts of the test lessons."""
        return self._prompts(self.test)

    def _prompts(self, source: LessonSource | None) -> Sequence[Loader[LessonBatch]]:
        assert self.trainer is not None
        if source is None:
            return []
        # Neighbours have like length and kind; rank r takes rows r, r + world_size, ...
        rows = range(self.trainer.global_rank, len(source), self.trainer.world_size)
        size = self.generate_batch_size
        loader: Loader[LessonBatch] = Loader(
            source,  # type: ignore[arg-type]
            # An empty batch for a rank without rows: Lightning refuses a loader that has none.
            batch_sampler=[list(rows[i : i + size]) for i in range(0, len(rows), size)] or [[]],
            collate_fn=LessonCollator(self._preprocessor(), self.generate_batch_size, False, source.name),
            generator=torch.Generator(),  # torch would draw from the global one, which the model uses
            num_workers=self.num_workers,
        )
        return [loader]

    def _preprocessor(self) -> GeneratorPreprocessor:
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        preprocessor: GeneratorPreprocessor = module.generator.preprocessor()
        return preprocessor
