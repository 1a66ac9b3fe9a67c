"""What the data modules share: exact resume, workers, checks of the trainer, lessons to score with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningDataModule, Trainer

from embedrl.data.checked_rows import CheckedCollator, CheckedRows
from embedrl.data.inputs import GeneratorPreprocessor
from embedrl.data.loader import Loader, MapDataset, ResumableLoader, StreamSampler
from embedrl.data.on_bad import FILE, MAX_BAD, OnBad, OnBadMode
from embedrl.data.sft_batches import LessonBatch, LessonCollator, LessonRows, LessonSource
from embedrl.errors import ConfigError
from embedrl.utils.ranges import check_least
from embedrl.utils.run_seed import run_seed

T = TypeVar("T")


class BaseDataModule(LightningDataModule):
    """A data module whose training batches form one stream, in which a resumed run goes on exactly where it stopped.

    A subclass builds its training loader with `_make_train_loader` and the others with `_make_scoring_loader`, and
    shares out the data over `trainer.world_size` processes itself.

    Args:
        seed: Seed of the order of the training data; None: the run's (`seed_everything`).
        num_workers: Loader processes; 0 loads in the training process.
        persistent_workers: Keep the loader processes from one epoch to the next.
        on_bad: A bad sample: `raise`, or `skip` it.
        max_bad: The most different bad samples that `skip` leaves out.

    Attributes:
        bad: The bad samples that were left out; the module in training adds them.

    Raises:
        ConfigError: If the limit is below 0.
    """

    def __init__(
        self,
        seed: int | None = None,
        num_workers: int = 0,
        persistent_workers: bool = False,
        on_bad: OnBadMode = "raise",
        max_bad: int = MAX_BAD,
    ) -> None:
        super().__init__()
        self.on_bad = on_bad
        self.bad = OnBad(on_bad, max_bad)
        check_least(0, {"data.num_workers": num_workers})
        self.seed = run_seed(seed, "data.seed")
        self.num_workers = num_workers
        self.persistent_workers = persistent_workers and num_workers > 0
        self._stream: ResumableLoader[Any] | None = None
        self._batches_seen = 0

    def setup(self, stage: str) -> None:
        """Check the trainer's settings, and prepare the file that names bad samples.

        Raises:
            ConfigError: If the trainer would shard or reload the loaders.
        """
        trainer = self._current_trainer
        if trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
            raise ConfigError(
                "set trainer.use_distributed_sampler: false (the data is already shared out over processes)"
            )
        if trainer.reload_dataloaders_every_n_epochs:  # type: ignore[attr-defined]  # set outside the class
            raise ConfigError("leave trainer.reload_dataloaders_every_n_epochs at 0: the training data is one stream")
        if stage != "fit":
            self.name_bad(trainer)

    def name_bad(self, trainer: Trainer) -> None:
        """Name bad samples in the run's folder from now on; of a fit that is resumed, go on with its file.

        Args:
            trainer: The trainer, which knows by now whether it goes on from a checkpoint.
        """
        if self.on_bad == "skip":
            folder = Path(trainer.log_dir or trainer.default_root_dir)  # every process asks: rank 0 tells the others
            resumed = bool(trainer.training and trainer.ckpt_path)
            self.bad.keep(folder / FILE, resumed, trainer.is_global_zero)

    def state_dict(self) -> dict[str, int]:
        """Position in the training data: Lightning restores a loader's own state only in the middle of an epoch."""
        return {"batches_seen": self._batches_seen if self._stream is None else self._stream.batches_seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the training loader start at the saved position."""
        self._batches_seen = state_dict.get("batches_seen", 0)

    @property
    def _current_trainer(self) -> Trainer:
        """The trainer, which is there whenever Lightning asks for data."""
        assert self.trainer is not None
        return self.trainer

    def _make_train_loader(
        self, dataset: MapDataset, sampler: StreamSampler, collate: Callable[[list[Any]], T]
    ) -> ResumableLoader[T]:
        """The training loader, from the saved position on.

        Raises:
            ConfigError: If `trainer.overfit_batches` is a share of less than one batch.
        """
        share = self._current_trainer.overfit_batches  # type: ignore[attr-defined]  # set outside the class
        repeated = min(share, len(sampler)) if isinstance(share, int) else int(share * len(sampler))
        if share and not repeated:
            raise ConfigError(
                f"--trainer.overfit_batches {share}: no batch of {len(sampler)}; give a number of batches"
            )
        self._stream = loader = ResumableLoader(
            dataset,
            sampler,
            collate,
            seed=self.seed,
            batches_seen=self._batches_seen,
            repeated=repeated or None,
            num_workers=self.num_workers,
            persistent_workers=self.persistent_workers,
        )
        return loader

    def _make_scoring_loader(self, dataset: Any, collate: Callable[[Any], T], **options: Any) -> Loader[T]:
        """A loader of `validate`, `test` or `predict`.

        Args:
            dataset: What to load.
            collate: Makes a batch.
            **options: More of `DataLoader`.
        """
        return Loader(
            dataset,
            collate_fn=collate,
            generator=torch.Generator(),  # torch would draw from the global one, which the model uses
            num_workers=self.num_workers,
            persistent_workers=self.persistent_workers,
            **options,
        )


class GeneratorDataModule(BaseDataModule):
    """A data module for a model that writes: replies to held-out lessons are scored in `validate` and `test`.

    The preprocessor is the one of the model in training (`model.generator`).

    Args:
        val: The lessons of `validate`.
        test: The lessons of `test`.
        generate_batch_size: Prompts that are answered at once, per process.
        seed: Seed of the order of the training data; None: the run's (`seed_everything`).
        num_workers: Loader processes; 0 loads in the training process.
        on_bad: A bad sample: `raise`, or `skip` it; a bad lesson to score on is left out.
        max_bad: The most different bad samples that `skip` leaves out.
    """

    def __init__(
        self,
        val: LessonSource | None = None,
        test: LessonSource | None = None,
        generate_batch_size: int = 32,
        seed: int | None = None,
        num_workers: int = 0,
        on_bad: OnBadMode = "raise",
        max_bad: int = MAX_BAD,
    ) -> None:
        super().__init__(seed, num_workers, on_bad=on_bad, max_bad=max_bad)
        check_least(1, {"data.generate_batch_size": generate_batch_size})
        self.val, self.test, self.generate_batch_size = val, test, generate_batch_size

    def val_dataloader(self) -> Sequence[Loader[LessonBatch]]:
        """Prompts of the validation lessons; no loader if there are none."""
        return self._prompts(self.val)

    def test_dataloader(self) -> Sequence[Loader[LessonBatch]]:
        """Prompts of the test lessons; no loader if there are none."""
        return self._prompts(self.test)

    def _prompts(self, source: LessonSource | None) -> Sequence[Loader[LessonBatch]]:
        if source is None:
            return []
        # Neighbours have like length and kind; rank r takes rows r, r + world_size, ...
        rows = range(self._current_trainer.global_rank, len(source), self._current_trainer.world_size)
        size = self.generate_batch_size
        # An empty batch for a rank without rows: Lightning refuses a loader that has none.
        batches = [list(rows[i : i + size]) for i in range(0, len(rows), size)] or [[]]
        lessons = CheckedRows(LessonRows(source), self.on_bad, replace=False)
        collate = LessonCollator(self._preprocessor(), size, False, source.name)
        checked = CheckedCollator(lessons, collate, collate.check)
        return [self._make_scoring_loader(lessons, checked, batch_sampler=batches)]

    def _preprocessor(self) -> GeneratorPreprocessor:
        module: Any = self._current_trainer.lightning_module
        preprocessor: GeneratorPreprocessor = module.generator.preprocessor()
        return preprocessor
