"""The Reasoner's data: lessons to train on, held-out lessons to score with."""

from __future__ import annotations

from embedrl.data.checked_rows import CheckedCollator, CheckedRows
from embedrl.data.datamodules.base import GeneratorDataModule
from embedrl.data.loader import ResumableLoader
from embedrl.data.on_bad import MAX_BAD, OnBadMode
from embedrl.data.sft_batches import LessonBatch, LessonCollator, LessonRows, LessonSampler, LessonSource
from embedrl.errors import ConfigError
from embedrl.utils.ranges import check_least


class ReasonerDataModule(GeneratorDataModule):
    """Lessons for `fit`, and held-out lessons whose replies are generated and scored in `validate` and `test`.

    The preprocessor is the one of the model in training (`model.generator`).

    Args:
        batch_size: Lessons in a batch, all processes together.
        micro_batch_size: Lessons of like length that go through the model at once: bounds memory and saves padding,
            leaves the loss alone.
        train: The lessons to train on.
        val: The lessons to score on.
        test: The lessons of `test`.
        shuffle: Whether to shuffle the lessons; a curriculum is left in its order.
        generate_batch_size: Prompts that are answered at once in `validate` and `test`, per process.
        seed: Seed of the shuffle; None: the run's (`seed_everything`).
        num_workers: Loader processes; 0 loads in the training process.
        on_bad: A bad lesson: `raise`, or `skip` it: the next lesson takes its place in training, and scoring goes
            without it; counted, logged, and named in the run folder's `skipped.jsonl`.
        max_bad: The most different bad lessons that `skip` leaves out; one more ends the run.
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
        seed: int | None = None,
        num_workers: int = 0,
        on_bad: OnBadMode = "raise",
        max_bad: int = MAX_BAD,
    ) -> None:
        super().__init__(val, test, generate_batch_size, seed, num_workers, on_bad, max_bad)
        check_least(1, {"data.batch_size": batch_size})
        self.train, self.shuffle = train, shuffle
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size

    def train_dataloader(self) -> ResumableLoader[LessonBatch]:
        """Batches of lessons with labels.

        Raises:
            ConfigError: If there are no lessons, or they do not fill a batch.
        """
        if self.train is None:
            raise ConfigError("data.train is missing: give a LessonSource to train on")
        rank, world_size = self._current_trainer.global_rank, self._current_trainer.world_size
        sampler = LessonSampler(len(self.train), self.batch_size, self.shuffle, self.seed, rank, world_size)
        lessons = CheckedRows(LessonRows(self.train), self.on_bad)
        collate = LessonCollator(self._preprocessor(), self.micro_batch_size, True, self.train.name)
        return self._make_train_loader(lessons, sampler, CheckedCollator(lessons, collate, collate.check))
