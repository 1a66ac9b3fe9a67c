"""What the three trainings share: hyperparameters, optimizer, randomness, gradient norm, speed, checkpoints."""

from __future__ import annotations

import inspect
import time
import warnings
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from embedrl.data.inputs import ModelInputs
from embedrl.distributed.collectives import mean_over_ranks, world_size
from embedrl.distributed.fsdp2 import build_model
from embedrl.distributed.gradient_sync import gradient_norm
from embedrl.distributed.trained_keys import check_keys, trained_keys
from embedrl.errors import ConfigError, NonFiniteError, listed
from embedrl.models.backbone import Backbone
from embedrl.models.generator import Generator
from embedrl.training.checkpoints import hyperparameters
from embedrl.training.progress import total_steps
from embedrl.training.seeding import StepRandomness

TOTALS = "totals"
"""Where a checkpoint keeps `TrainingModule.totals`."""

# The module decides when a batch moves, whatever data module it came from; from Python as from the command line.
warnings.filterwarnings("ignore", message="You have overridden `transfer_batch_to_device` in `LightningModule`")


class TrainingModule(LightningModule, ABC):
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
            and `seed`; it may have `schedule_args` (more arguments of the schedule).

    Attributes:
        processed: What the step went through on all processes, by unit, such as `{"tokens": 4096}`: logged per second.
        samples: Names of the samples in the batch, for errors.
        steps_per_batch: Optimizer steps of a batch.
        totals: What has been counted since the start of the run on all processes, by name; checkpoints keep it.

    Raises:
        ConfigError: If an argument cannot be written to a checkpoint.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        # Of the class whose `__init__` is running: that of `self` may be a further subclass with other arguments.
        names = list(inspect.signature(arguments["__class__"].__init__).parameters)[1:]
        self.save_hyperparameters(hyperparameters({name: arguments[name] for name in names}))
        self.optimizer: OptimizerCallable = arguments["optimizer"]
        self.schedule: str = arguments["schedule"]
        self.warmup_steps: int = arguments["warmup_steps"]
        self.schedule_args: dict[str, Any] | None = arguments.get("schedule_args")
        self.seed: int = arguments["seed"]
        self.strict_loading = False  # `load_state_dict` checks the keys that must be there
        self.processed: dict[str, float] = {}
        self.samples: list[str] = []
        self.steps_per_batch = 1
        self.totals: dict[str, int] = {}
        self._means: tuple[int, dict[str, list[Tensor]]] = (-1, {})
        self._random = StepRandomness(self.seed)

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

    def configure_model(self) -> None:
        """Load the weights, and shard them if the strategy does."""
        build_model(self.trained_model, None if self._trainer is None else self._trainer.strategy)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer, and the learning rate of every step up to the end of the run.

        Raises:
            ConfigError: If the run has no end.
        """
        from transformers import get_scheduler

        # All parameters, although frozen ones never have a gradient: optimizer states are matched by position when a
        # checkpoint goes from one number of ranks to another.
        optimizer = self.optimizer(self.parameters())
        self._means = (-1, {})  # a run begins
        steps = total_steps(self.trainer)
        if steps is None:
            raise ConfigError("the schedule needs an end: set trainer.max_steps or trainer.max_epochs")
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
        ends or the run is resumed.
        """
        self._random.seed(self)
        for result in self.trainer.fit_loop.epoch_loop._results.result_metrics:
            if result.meta.fx == "training_step" and not result.meta.on_epoch:
                result.reset()
        self._started = time.perf_counter()

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

    # ---------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what training changes, and the totals."""
        checkpoint[TOTALS] = dict(self.totals)
        keep = trained_keys(self)
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in keep}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting."""
        self.totals = dict(checkpoint.get(TOTALS, {}))

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load trained weights.

        Raises:
            CheckpointError: If a key is unknown, or a trained one is missing.
        """
        check_keys(self, state_dict)
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        result.missing_keys.clear()  # frozen
        return result
