"""What the three trainings share: hyperparameters, optimizer, randomness, gradient norm, speed, checkpoints."""

from __future__ import annotations

import inspect
import time
import warnings
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from embedrl.data.inputs import ModelInputs
from embedrl.data.on_bad import BadSample, OnBad
from embedrl.distributed.collectives import mean_over_ranks, world_size
from embedrl.distributed.fsdp2 import build_model
from embedrl.distributed.gradient_sync import gradient_norm
from embedrl.errors import CAUSES, ConfigError, NonFiniteError, listed
from embedrl.models.backbone import Backbone
from embedrl.models.generator import Generator
from embedrl.training.checkpoints import hyperparameters, plain_callable
from embedrl.training.progress import total_steps
from embedrl.training.saving import SavedModule
from embedrl.training.seeding import StepRandomness
from embedrl.training.trainer_checks import check_schedule, check_trainer, refusals
from embedrl.utils.ranges import check_least
from embedrl.utils.run_seed import run_seed

# The module decides when a batch moves, whatever data module it came from; from Python as from the command line.
warnings.filterwarnings("ignore", message="You have overridden `transfer_batch_to_device` in `LightningModule`")


class TrainingModule(SavedModule, ABC):
    """Base of the trainings.

    A subclass calls `super().__init__(locals())` first: every argument of its `__init__` becomes a hyperparameter in
    the form of a config file, so that `load_from_checkpoint` rebuilds the module. Its checkpoints hold what training
    changes; frozen weights come from the model's own checkpoint.

    A subclass gives `trained_model` and `score`, and does its work in `training_step`, `on_validation_epoch_start` and
    `validation_step`; `test` is a validation under another name.

    Args:
        arguments: The `locals()` of the subclass's `__init__`. It must have the arguments `optimizer` (the optimizer's
            class and options), `schedule` (course of the learning rate after the warm-up, by the names of
            `transformers.get_scheduler`), `warmup_steps` (optimizer steps over which the learning rate rises from 0)
            and `seed` (None: the run's); it may have `schedule_args` (more arguments of the schedule).

    Attributes:
        processed: What the step went through on all processes, by unit, such as `{"tokens": 4096}`: logged per second.
        samples: Names of the samples in the batch, for errors.
        steps_per_batch: Optimizer steps of a batch.

    Raises:
        ConfigError: If an argument cannot be written to a checkpoint.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        # Of the class whose `__init__` is running: that of `self` may be a further subclass with other arguments.
        names = list(inspect.signature(arguments["__class__"].__init__).parameters)[1:]
        self.save_hyperparameters(hyperparameters({name: arguments[name] for name in names}))
        self.optimizer: OptimizerCallable = plain_callable(arguments["optimizer"])
        check_least(0, {"model.warmup_steps": arguments["warmup_steps"]})
        self.schedule: str = arguments["schedule"]
        self.warmup_steps: int = arguments["warmup_steps"]
        self.schedule_args: dict[str, Any] | None = arguments.get("schedule_args")
        self.seed = run_seed(arguments["seed"], "model.seed")
        self.hparams["seed"] = self.seed  # what ran
        self.processed: dict[str, float] = {}
        self.samples: list[str] = []
        self.steps_per_batch = 1
        self._means: tuple[int, dict[str, list[Tensor]]] = (-1, {})
        self._random = StepRandomness(self.seed)
        self._bad = OnBad("skip")  # for a data module of the user's own, which has none

    @property
    @abstractmethod
    def trained_model(self) -> Backbone | Generator:
        """The model in training."""

    @abstractmethod
    def score(self, stage: str) -> None:
        """Log what the last validation or test found.

        Args:
            stage: `val` or `test`: what the names in the log begin with.
        """

    # ---------------------------------------------------------------- building

    def setup(self, stage: str) -> None:
        """Check the trainer's options.

        Raises:
            ConfigError: If there is one that the trainings cannot do.
        """
        check_trainer(self.trainer, self)
        check_schedule(self.schedule)

    def on_fit_start(self) -> None:
        """Name bad samples in the run's folder: only now does the trainer know whether it goes on from a checkpoint."""
        name_bad = getattr(getattr(self.trainer, "datamodule", None), "name_bad", None)
        if name_bad is not None:
            name_bad(self.trainer)

    def configure_model(self) -> None:
        """Load the weights, and shard them if the strategy does."""
        build_model(self.trained_model, None if self._trainer is None else self._trainer.strategy)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer, and the learning rate of every step up to the end of the run.

        Raises:
            ConfigError: If the run has no end, or the optimizer or the schedule refuses its arguments.
        """
        from transformers import get_scheduler

        # All parameters, although frozen ones never have a gradient: optimizer states are matched by position when a
        # checkpoint goes from one number of ranks to another.
        with refusals("model.optimizer"):
            optimizer = self.optimizer(self.parameters())
        self._means = (-1, {})  # a run begins
        steps = total_steps(self.trainer)
        if steps is None:
            raise ConfigError("the schedule needs an end: set trainer.max_steps or trainer.max_epochs")
        with refusals("model.schedule_args"):
            scheduler = get_scheduler(self.schedule, optimizer, self.warmup_steps, steps, self.schedule_args)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # ---------------------------------------------------------------- training

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave the batch where it is: one micro-batch is moved at a time, so that memory stays flat."""
        return batch

    def to_device(self, inputs: ModelInputs) -> ModelInputs:
        """One micro-batch on the module's device."""
        return {name: value.to(self.device, non_blocking=True) for name, value in inputs.items()}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Make the step's randomness a function of the step alone, and its log one of what it measures.

        Lightning would log a figure that the step before has measured and this one has not once more, until the epoch
        ends or the run is resumed. The bad samples that the batch goes without are counted.

        Raises:
            TooManyBadError: If too many samples were bad.
        """
        self._random.seed(self)
        for result in self.trainer.fit_loop.epoch_loop._results.result_metrics:
            if result.meta.fx in ("training_step", "on_after_backward") and not result.meta.on_epoch:
                result.reset()
        counts = self.skipped(getattr(batch, "skipped", ()))
        self.log("data/skipped", float(counts.total()))
        self.log_dict({f"data/skipped/{cause}": float(count) for cause, count in counts.items()})
        self._started = time.perf_counter()

    def skipped(self, samples: Sequence[BadSample]) -> Counter[str]:
        """Count bad samples and name them in the run folder; all processes call together.

        Args:
            samples: This process's new ones.

        Returns:
            Those of all processes since the start of the run, each once, by cause.

        Raises:
            TooManyBadError: If there are more than the data module's `max_bad`.
        """
        bad: OnBad = getattr(getattr(self.trainer, "datamodule", None), "bad", None) or self._bad
        bad.add(samples)
        counts = bad.counts
        if world_size() > 1:
            known = [bad.counts[cause] for cause in CAUSES]
            own = torch.tensor([*known, bad.counts.total() - sum(known)], dtype=torch.float64, device=self.device)
            total = (mean_over_ranks(own) * world_size()).round().long().tolist()
            counts = Counter({cause: count for cause, count in zip((*CAUSES, "other"), total, strict=True) if count})
        bad.check(counts)
        return counts

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the learning rate of the step, and the norm of its gradient before clipping.

        A module with manual optimisation logs its own norm; of several steps a batch the last one's rate is logged.

        Raises:
            NonFiniteError: If it is NaN or infinite.
        """
        self.log("train/lr", float(optimizer.param_groups[0]["lr"]))
        if self.automatic_optimization:
            self.log("train/grad_norm", self.gradient_norm())

    def gradient_norm(self, where: str = "") -> Tensor:
        """The norm of the whole gradient, sharded or not.

        Args:
            where: Where in the step, for errors.

        Raises:
            NonFiniteError: If it is NaN or infinite.
        """
        norm = gradient_norm(self)
        if not torch.isfinite(norm):
            last = f" (last batch: {listed(self.samples)})" if self.samples else ""
            raise NonFiniteError(
                f"step {self.global_step}{where}: the gradient is not finite{last}; lower the learning rate"
            )
        return norm

    def log_step_means(self, figures: Mapping[str, Tensor], prog_bar: bool = False) -> None:
        """Log figures of a batch; of batches that lead to a step together (`accumulate_grad_batches`) their means.

        Args:
            figures: The figures by name.
            prog_bar: Whether to show them beside the progress bar too.
        """
        if self._means[0] != self.global_step:
            self._means = (self.global_step, defaultdict(list))
        for name, value in figures.items():
            values = self._means[1][name]
            values.append(value.detach())
            self.log(name, torch.stack(values).mean() if len(values) > 1 else values[0], prog_bar=prog_bar)

    def log_totals(self, counts: Mapping[str, int]) -> None:
        """Add what this process counted in a batch and log the totals as `data/...`; all processes call together."""
        added = mean_over_ranks(torch.tensor([*counts.values()], dtype=torch.float64, device=self.device))
        for name, value in zip(counts, (added * world_size()).round().long().tolist(), strict=True):
            self.totals[name] = self.totals.get(name, 0) + value
            self.log(f"data/{name}", float(self.totals[name]))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the speed of the step, loading left out."""
        seconds = time.perf_counter() - self._started
        self.log_dict({f"train/{unit}_per_s": amount / seconds for unit, amount in self.processed.items()})

    # ---------------------------------------------------------------- scoring

    def on_validation_epoch_end(self) -> None:
        """Log the figures as `val/...`."""
        self.score("val")

    def on_test_epoch_start(self) -> None:
        """As `on_validation_epoch_start`."""
        self.on_validation_epoch_start()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """As `validation_step`."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log the same figures as `test/...`."""
        self.score("test")

    # ---------------------------------------------------------------- export

    def describe_export(self, out: Path) -> None:
        """Add to an exported folder what this training knows of the model; nothing by default.

        Args:
            out: The folder that `trained_model.export` wrote.
        """
