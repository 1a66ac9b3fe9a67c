"""The Embedder's data: a mix of pair sources to train on, retrieval tasks to score with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from embedrl.data.checked_rows import CheckedCollator, CheckedRows
from embedrl.data.collate import ContrastiveBatch, ContrastiveCollator, EncodeBatch, EncodeCollator
from embedrl.data.datamodules.base import BaseDataModule
from embedrl.data.inputs import Preprocessor
from embedrl.data.loader import Loader, ResumableLoader
from embedrl.data.mix import MixRow, check_labels
from embedrl.data.on_bad import MAX_BAD, OnBadMode
from embedrl.data.pair_dataset import PairDataset
from embedrl.data.render import RenderOptions, check_latent
from embedrl.data.sampler import SubBatchSampler
from embedrl.data.side_dataset import EncodeDataset
from embedrl.data.sources import TaskSource
from embedrl.errors import ConfigError
from embedrl.types import RetrievalTask
from embedrl.utils.file_names import check_file_names
from embedrl.utils.ranges import check_least


class EmbedderDataModule(BaseDataModule):
    """Contrastive batches for `fit`; the sides of retrieval tasks for `validate`, `test` and `predict`.

    The preprocessor is the one of the model in training (`model.backbone`). Validation and test have one loader over
    all sides of all tasks; each side is embedded once and by one rank.

    Args:
        batch_size: Pairs in a batch, all processes together.
        sub_batch_size: Pairs in a sub-batch, which holds one data set; divides `batch_size`.
        micro_batch_size: Sides (not pairs) that go through the backbone at once: bounds memory (in training with
            `model.gradient_cache`), leaves the loss alone.
        mix: The data sets to train on: a list, or a file that holds one.
        val: Where the validation tasks come from.
        test: Where the tasks of `test` and `predict` come from.
        render: What the Embedder reads of a side and its T-CoT.
        max_video_sub_batches: At most this many video sub-batches per batch.
        batches_per_epoch: Batches per epoch; None means the number of rows // batch_size.
        max_negatives: Use at most this many of a pair's hard negatives; 0 (the paper) uses only in-batch negatives.
        encode_batch_size: Sides in a batch of `validate`, `test` and `predict`, per process.
        seed: Seed of the order of the rows and of the noise on the evidence; None: the run's (`seed_everything`).
        num_workers: Loader processes; 0 loads in the training process.
        persistent_workers: Keep the loader processes from one epoch to the next.
        on_bad: A bad row or side: `raise`, or `skip` it: the next row of the data set takes the place of a training
            row, and scoring goes without a side; counted, logged, and named in the run folder's `skipped.jsonl`.
        max_bad: The most different bad rows and sides that `skip` leaves out; one more ends the run.

    Source: Embed-RL §3.1, B.1.
    """

    def __init__(
        self,
        batch_size: int,
        sub_batch_size: int,
        micro_batch_size: int,
        mix: list[MixRow] | None = None,
        val: list[TaskSource] | None = None,
        test: list[TaskSource] | None = None,
        render: RenderOptions = RenderOptions(),  # noqa: B008 (frozen)
        max_video_sub_batches: int = 1,
        batches_per_epoch: int | None = None,
        max_negatives: int = 0,
        encode_batch_size: int = 64,
        seed: int | None = None,
        num_workers: int = 0,
        persistent_workers: bool = False,
        on_bad: OnBadMode = "raise",
        max_bad: int = MAX_BAD,
    ) -> None:
        super().__init__(seed, num_workers, persistent_workers, on_bad, max_bad)
        sizes = {"batch_size": batch_size, "sub_batch_size": sub_batch_size, "batches_per_epoch": batches_per_epoch}
        check_least(1, {f"data.{name}": size for name, size in sizes.items()})
        check_least(0, {"data.max_negatives": max_negatives})
        self.mix = mix or []
        self.val = val or []
        self.test = test or []
        self.render = render
        self.batch_size = batch_size
        self.sub_batch_size = sub_batch_size
        self.micro_batch_size = micro_batch_size
        self.max_video_sub_batches = max_video_sub_batches
        self.batches_per_epoch = batches_per_epoch
        self.max_negatives = max_negatives
        self.encode_batch_size = encode_batch_size
        self.tasks: list[RetrievalTask] = []

    def setup(self, stage: str) -> None:
        """Collect the stage's tasks in `tasks`.

        Raises:
            ConfigError: If two tasks would have one name or one file, or the trainer would shard or reload the loaders.
            DataError: If a task cannot be read.
        """
        super().setup(stage)
        sources = self.val if stage in ("fit", "validate") else self.test
        self.tasks = [task for source in sources for task in source.tasks()]
        for name, count in Counter(task.name for task in self.tasks).items():
            if count > 1:
                raise ConfigError(f"data.val / data.test: {count} tasks are named {name}")
        check_file_names([task.name for task in self.tasks], "data.val / data.test")

    def train_dataloader(self) -> ResumableLoader[ContrastiveBatch]:
        """Batches of pairs.

        Raises:
            ConfigError: If the mix and the batch settings do not go together.
        """
        if self.batch_size < 2 and not self.max_negatives:
            raise ConfigError(
                f"data.batch_size is {self.batch_size}: without another pair or hard negatives there is nothing to "
                "tell a target from; give 2 or more, or data.max_negatives"
            )
        trainer = self._current_trainer
        labels = check_labels(self.mix)
        sampler = SubBatchSampler(
            sizes=[len(row.source) for row in self.mix],
            weights=[row.weight for row in self.mix],
            is_video=[row.is_video for row in self.mix],
            batch_size=self.batch_size,
            sub_batch_size=self.sub_batch_size,
            max_video_sub_batches=self.max_video_sub_batches,
            seed=self.seed,
            num_batches=self.batches_per_epoch,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            names=labels,
        )
        sources, (queries, targets) = [row.source for row in self.mix], self.side_options()
        pairs = PairDataset(sources, queries, self.seed, self.max_negatives, labels, targets)
        rows = CheckedRows(pairs, self.on_bad)
        sides = self.batch_size // trainer.world_size * (2 + self.max_negatives)
        collator = ContrastiveCollator(
            self.train_preprocessor(),
            self.micro_batch_size,
            # Negatives are ragged: ranks agree on the count that the fullest batch needs.
            -(-sides // self.micro_batch_size) if trainer.world_size > 1 else None,
        )
        return self._make_train_loader(rows, sampler, CheckedCollator(rows, collator, collator.check))

    def side_options(self) -> tuple[RenderOptions, RenderOptions]:
        """How the queries and the targets of training are rendered."""
        return self.render, self.render

    def scoring_options(self) -> RenderOptions:
        """How the sides of tasks are rendered."""
        return self.render

    def train_preprocessor(self) -> Preprocessor:
        """The preprocessor of training."""
        return self._preprocessor()

    def val_dataloader(self) -> Sequence[Loader[EncodeBatch]]:
        """All sides of the validation tasks; no loader if there are none."""
        return self._encode_loaders()

    def test_dataloader(self) -> Sequence[Loader[EncodeBatch]]:
        """All sides of the test tasks."""
        return self._encode_loaders()

    def predict_dataloader(self) -> Sequence[Loader[EncodeBatch]]:
        """All sides of the test tasks."""
        return self._encode_loaders()

    def _encode_loaders(self) -> Sequence[Loader[EncodeBatch]]:
        trainer = self._current_trainer
        if not self.tasks:
            return []
        rank, size = trainer.global_rank, trainer.world_size
        dataset = EncodeDataset(
            self.tasks, self.scoring_options(), self.encode_batch_size, rank, size, on_bad=self.on_bad
        )
        count = -(-dataset.largest // self.micro_batch_size)
        collator = EncodeCollator(self._preprocessor(), self.micro_batch_size, count, self.on_bad)
        return [self._make_scoring_loader(dataset, collator, batch_size=None)]

    def _preprocessor(self) -> Preprocessor:
        module: Any = self._current_trainer.lightning_module
        preprocessor: Preprocessor = module.backbone.preprocessor()
        check_latent(self.render, preprocessor, "data.render")
        return preprocessor
