"""Trains a model to write: cross-entropy on the reply, scored by what it writes itself."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from embedrl.data.datamodules.reasoner import LessonBatch
from embedrl.data.inputs import ModelInputs
from embedrl.distributed.collectives import (
    gather_objects,
    max_over_ranks,
    mean_over_ranks,
    world_size,
)
from embedrl.distributed.fsdp2 import build_model
from embedrl.distributed.gradient_sync import GradientSync, gradient_norm
from embedrl.distributed.unshard import unsharded
from embedrl.errors import ConfigError, NonFiniteError
from embedrl.metrics.replies import score_reply
from embedrl.models.generator import Generator
from embedrl.models.qwen_vl.preprocess import IGNORE
from embedrl.training.checkpoints import TrainedWeights, hyperparameters
from embedrl.training.seeding import StepRandomness


class ReasonerModule(TrainedWeights):
    """Supervised training of a generator. Source: Embed-RL §3.2 (T-CoTs as labels).

    Args:
        generator: The model and its options; its weights load when a run starts.
        optimizer: The optimizer's class and options, such as AdamW with its learning rate.
        schedule: Course of the learning rate after the warm-up, by the names of `transformers.get_scheduler`.
        warmup_steps: Optimizer steps over which the learning rate rises from 0.
        schedule_args: More arguments of the schedule, such as `num_decay_steps` of `warmup_stable_decay`.
        max_new_tokens: Longest reply in validation.
        seed: Seed of dropout; every step draws from (seed, step, rank), so a resumed run repeats it.

    Attributes:
        replies: What the last validation or test wrote: (lesson, reply, scores); callbacks draw from it.
    """

    def __init__(
        self,
        generator: Generator,
        optimizer: OptimizerCallable,
        schedule: str = "cosine",
        warmup_steps: int = 10,
        schedule_args: dict[str, Any] | None = None,
        max_new_tokens: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(
            hyperparameters(
                generator=generator,
                optimizer=optimizer,
                schedule=schedule,
                warmup_steps=warmup_steps,
                schedule_args=schedule_args,
                max_new_tokens=max_new_tokens,
                seed=seed,
            )
        )
        self.generator = generator
        self.optimizer = optimizer
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.schedule_args = schedule_args
        self.max_new_tokens = max_new_tokens
        self.seed = seed
        self._random = StepRandomness(seed)
        self.replies: list[tuple[Any, str, dict[str, float]]] = []
        self._scoring = ExitStack()

    def configure_model(self) -> None:
        """Load the weights, and shard them if the strategy does."""
        build_model(self.generator, None if self._trainer is None else self._trainer.strategy)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer, and the learning rate of every step up to the end of the run."""
        from transformers import get_scheduler

        # All parameters, although frozen ones never have a gradient: optimizer states are matched by position when a
        # checkpoint goes from one number of ranks to another.
        optimizer = self.optimizer(self.parameters())
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ConfigError("the schedule needs an end: set trainer.max_steps or trainer.max_epochs")
        scheduler = get_scheduler(self.schedule, optimizer, self.warmup_steps, int(steps), self.schedule_args)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # ---------------------------------------------------------------- training

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave the batch where it is: one micro-batch is moved at a time, so that memory stays flat."""
        return batch

    def _move(self, inputs: ModelInputs) -> ModelInputs:
        return {name: value.to(self.device, non_blocking=True) for name, value in inputs.items()}

    def on_train_batch_start(self, batch: LessonBatch, batch_idx: int) -> None:
        """Make the step's randomness a function of the step alone."""
        self._random.seed(self)
        self._started = time.perf_counter()

    def training_step(self, batch: LessonBatch, batch_idx: int) -> Tensor:
        """Mean cross-entropy over the reply tokens of the whole batch, however it is cut into micro-batches and ranks.

        Raises:
            NonFiniteError: If the loss is NaN or infinite.
        """
        counts = [int((inputs["labels"] != IGNORE).sum()) for inputs in batch.micro_batches]
        tokens = torch.tensor(float(sum(counts)), dtype=torch.float64, device=self.device)
        share = float(mean_over_ranks(tokens))
        self._tokens = share * world_size()
        # A rank with fewer micro-batches than another goes through its last one again, with a weight of zero.
        spare = max_over_ranks(len(counts), self.device) - len(counts)
        micro_batches = [*batch.micro_batches, *[batch.micro_batches[-1]] * spare]
        self._parts = [self.generator(self._move(inputs)) for inputs in micro_batches]
        weights = torch.tensor([count / share for count in counts] + [0.0] * spare, device=self.device)
        self._losses = torch.stack(self._parts).detach().requires_grad_()
        loss = (self._losses * weights).sum()  # the mean over ranks is that of the batch, as for the gradients
        mean = mean_over_ranks(loss)
        if not torch.isfinite(mean):
            raise NonFiniteError(f"step {self.global_step}: the loss is not finite; lower the learning rate")
        self._sync = GradientSync(self.trainer.strategy.model, self.generator)
        self._sync.hold()
        self.log("train/loss", mean, prog_bar=True)
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def backward(self, loss: Tensor) -> None:
        """From the loss to the micro-batches' losses, from each of them to the parameters."""
        torch.autograd.backward(loss)
        assert self._losses.grad is not None
        for i, weight in enumerate(self._losses.grad, start=1):
            output = self._parts.pop(0) * weight  # its graph is freed with it
            torch.autograd.backward(self._sync.release(output) if i == len(self._losses) else output)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the norm of the gradient before clipping.

        Raises:
            NonFiniteError: If it is NaN or infinite.
        """
        norm = gradient_norm(self)
        if not torch.isfinite(norm):
            raise NonFiniteError(f"step {self.global_step}: the gradient is not finite; lower the learning rate")
        self.log("train/grad_norm", norm)

    def on_train_batch_end(self, outputs: Any, batch: LessonBatch, batch_idx: int) -> None:
        """Log the speed of the step, loading left out."""
        self.log("train/tokens_per_s", self._tokens / (time.perf_counter() - self._started))

    # ---------------------------------------------------------------- scoring

    def on_validation_epoch_start(self) -> None:
        """Start collecting replies; a sharded model is whole until the scores are logged.

        So ranks may write different numbers of replies, of different lengths, and so may callbacks at the end of the
        epoch, which come before `on_validation_epoch_end`.
        """
        self.replies = []
        self._scoring.enter_context(unsharded(self.generator))

    def validation_step(self, batch: LessonBatch, batch_idx: int) -> None:
        """Write the replies of one batch of prompts, greedily."""
        written = [
            reply
            for inputs in batch.micro_batches
            for reply in self.generator.generate(self._move(inputs), self.max_new_tokens)
        ]
        for lesson, reply in zip(batch.lessons, written, strict=True):
            self.replies.append((lesson, reply, score_reply(reply, lesson)))

    def on_validation_epoch_end(self) -> None:
        """Log `val/<kind>/exact` and the other figures of `score_reply`, and each one's mean over the kinds.

        `val/problem/<code>` is the share of all T-CoTs that have it.
        """
        self._score("val")

    def on_test_epoch_start(self) -> None:
        """As `on_validation_epoch_start`."""
        self.on_validation_epoch_start()

    def test_step(self, batch: LessonBatch, batch_idx: int) -> None:
        """As `validation_step`."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log the same figures as `test/...`."""
        self._score("test")

    def _score(self, stage: str) -> None:
        self._scoring.close()
        mine = [(lesson.kind, scores) for lesson, _, scores in self.replies]
        values: dict[tuple[str, str], list[float]] = defaultdict(list)
        problems: Counter[str] = Counter()
        for kind, scores in gather_objects(mine):
            for name, value in scores.items():
                if name.startswith("problem/"):
                    problems[name] += 1
                else:
                    values[kind, name].append(value)
        written = sum(len(found) for (_, name), found in values.items() if name == "format")
        self.log_dict({f"{stage}/{name}": count / written for name, count in sorted(problems.items())})
        means: dict[str, list[float]] = defaultdict(list)
        for (kind, name), found in sorted(values.items()):
            means[name].append(sum(found) / len(found))
            self.log(f"{stage}/{kind}/{name}", means[name][-1])
        for name, found in means.items():
            self.log(f"{stage}/{name}", sum(found) / len(found), prog_bar=True)
