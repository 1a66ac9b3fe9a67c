"""Data of a policy that is trained by verifiable rewards: lessons to reply to, and held-out ones to score with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from embedrl.data.checked_rows import CheckedCollator, CheckedRows, Drawn
from embedrl.data.datamodules.base import GeneratorDataModule
from embedrl.data.inputs import ModelInputs
from embedrl.data.loader import ResumableLoader
from embedrl.data.on_bad import MAX_BAD, BadSample, OnBadMode
from embedrl.data.sft_batches import LessonRows, LessonSampler, LessonSource
from embedrl.errors import ConfigError, DataError, TooLongError
from embedrl.types import Chat, Lesson
from embedrl.utils.ranges import check_least


@dataclass
class PromptBatch:
    """The lessons of one step on one process.

    Attributes:
        lessons: The lessons, their pictures in memory.
        inputs: Each one's prompt as model inputs, one row on the CPU.
        skipped: The bad lessons that others took the place of.
    """

    lessons: list[Lesson]
    inputs: list[ModelInputs]
    skipped: list[BadSample] = field(default_factory=list)


class PromptPreprocessor(Protocol):
    """What a policy's preprocessor makes of prompts."""

    max_length: int

    def prompt_rows(self, chats: list[Chat]) -> list[ModelInputs]:
        """Each chat as model inputs."""
        ...

    def fits(self, chat: Chat, prompt: bool = False) -> bool:
        """Whether a chat is short enough."""
        ...


class VerifiableRLDataModule(GeneratorDataModule):
    """Lessons to reply to in `fit`, and held-out ones whose replies are scored in `validate` and `test`.

    The replies of the training lessons are not used: the policy writes its own, and rewards read a lesson's `gold`.

    Args:
        batch_size: Lessons in a step, all processes together; the policy writes a group of replies to each.
        train: The lessons to train on.
        val: The lessons to score on.
        test: The lessons of `test`.
        shuffle: Whether to shuffle the lessons; a curriculum is left in its order.
        generate_batch_size: Prompts that are answered at once in `validate` and `test`, per process.
        seed: Seed of the shuffle; None: the run's (`seed_everything`).
        num_workers: Loader processes; 0 loads in the training process.
        on_bad: A bad lesson: `raise`, or `skip` it: the next lesson takes its place in training, and scoring goes
            without it; counted, logged, and named in the run folder's `skipped.jsonl`.
        max_bad: The most different bad lessons that `skip` leaves out.
    """

    def __init__(
        self,
        batch_size: int,
        train: LessonSource | None = None,
        val: LessonSource | None = None,
        test: LessonSource | None = None,
        shuffle: bool = True,
        generate_batch_size: int = 32,
        seed: int | None = None,
        num_workers: int = 0,
        on_bad: OnBadMode = "raise",
        max_bad: int = MAX_BAD,
    ) -> None:
        super().__init__(val, test, generate_batch_size, seed, num_workers, on_bad, max_bad)
        check_least(1, {"data.batch_size": batch_size})
        self.batch_size, self.train, self.shuffle = batch_size, train, shuffle

    def train_dataloader(self) -> ResumableLoader[PromptBatch]:
        """Steps of lessons.

        Raises:
            ConfigError: If there are no lessons, or they do not fill a batch.
        """
        if self.train is None:
            raise ConfigError("data.train is missing: give a LessonSource to train on")
        rank, world_size = self._current_trainer.global_rank, self._current_trainer.world_size
        sampler = LessonSampler(len(self.train), self.batch_size, self.shuffle, self.seed, rank, world_size)
        lessons = CheckedRows(LessonRows(self.train), self.on_bad)
        preprocessor: Any = self._preprocessor()
        collate = _PromptCollator(preprocessor, self.train.name)
        return self._make_train_loader(lessons, sampler, CheckedCollator(lessons, collate, collate.check))


@dataclass(frozen=True)
class _PromptCollator:
    """Processes the prompts of lessons.

    Attributes:
        preprocessor: The policy's.
        source: Name of the data set for errors.
    """

    preprocessor: PromptPreprocessor
    source: str

    def __call__(self, lessons: list[Lesson]) -> PromptBatch:
        chats = [lesson.chat for lesson in lessons]
        for chat in chats:
            if not self.preprocessor.fits(chat, prompt=True):
                raise TooLongError(f"its prompt has more tokens than the policy's {self.preprocessor.max_length}")
        return PromptBatch(lessons, self.preprocessor.prompt_rows(chats))

    def check(self, drawn: Drawn[Lesson]) -> None:
        """Process one lesson alone; an error names it."""
        if drawn.sample is None:
            return
        try:
            self([drawn.sample])
        except DataError as error:
            raise DataError(f"{self.source}, lesson {drawn.key}: {error}", error.cause) from error
