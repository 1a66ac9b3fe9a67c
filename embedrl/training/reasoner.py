"""Trains a model to write: cross-entropy on the reply, scored on generated replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from embedrl.data.sft_batches import LessonBatch
from embedrl.distributed.collectives import (
    max_over_ranks,
    mean_over_ranks,
    world_size,
)
from embedrl.distributed.gradient_sync import GradientSync
from embedrl.errors import NonFiniteError
from embedrl.models.generator import Generator
from embedrl.models.packing import IGNORE
from embedrl.training.greedy_replies import GreedyReplies, WritingModule
from embedrl.utils.ranges import check_least


@dataclass
class _Accumulated:
    """The batches since the last optimizer step, their number of tokens being known only in the end.

    Attributes:
        step: The optimizer step that they lead to.
        unit: Tokens of the first of them, by which the losses of all are divided meanwhile.
        tokens: Tokens of all of them, the mean over ranks like `unit`.
        loss: Their mean loss over tokens.
    """

    step: int
    unit: float
    tokens: float = 0.0
    loss: Tensor | float = 0.0

    def add(self, loss: Tensor, tokens: float) -> Tensor:
        """Take in a batch's mean loss; returns the mean over all tokens so far."""
        self.tokens += tokens
        self.loss = self.loss + (loss - self.loss) * (tokens / self.tokens)
        return self.loss


class ReasonerModule(WritingModule):
    """Supervised training of a generator. Source: Embed-RL §3.2 (T-CoTs as labels).

    Optimisation is Lightning's automatic one, except that memory holds the graph of one micro-batch at a time:
    `training_step` runs the backward passes of all micro-batches but the last, and zeroes gradients before them.

    Args:
        generator: The model and its options; its weights load when a run starts.
        optimizer: The optimizer's class and options, such as AdamW with its learning rate.
        schedule: Course of the learning rate after the warm-up, by the names of `transformers.get_scheduler`.
        warmup_steps: Optimizer steps over which the learning rate rises from 0.
        schedule_args: More arguments of the schedule, such as `num_decay_steps` of `warmup_stable_decay`.
        max_new_tokens: Longest reply in validation.
        seed: Seed of dropout; every step draws from (seed, step, rank), so a resumed run repeats it. None: the run's
            (`seed_everything`).
    """

    def __init__(
        self,
        generator: Generator,
        optimizer: OptimizerCallable,
        schedule: str = "cosine",
        warmup_steps: int = 10,
        schedule_args: dict[str, Any] | None = None,
        max_new_tokens: int = 256,
        seed: int | None = None,
    ) -> None:
        super().__init__(locals())
        check_least(1, {"model.max_new_tokens": max_new_tokens})
        self.generator = generator
        self._greedy = GreedyReplies(generator, max_new_tokens)
        self._accumulated = _Accumulated(-1, 1.0)

    @property
    def trained_model(self) -> Generator:
        """The generator."""
        return self.generator

    # ---------------------------------------------------------------- training

    def on_train_start(self) -> None:
        """Forget the gradients of a run before this one."""
        self._accumulated = _Accumulated(-1, 1.0)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Do nothing: Lightning calls it between `training_step`, which fills gradients, and `backward`."""

    def training_step(self, batch: LessonBatch, batch_idx: int) -> Tensor:
        """Mean cross-entropy over the reply tokens of the whole batch, however it is cut into micro-batches and ranks.

        With `trainer.accumulate_grad_batches` the gradient and `train/loss` are those of all its batches as one.

        Returns:
            The batch's loss, with the graph of its last micro-batch.

        Raises:
            NonFiniteError: If the loss is NaN or infinite.
        """
        counts = [int((inputs["labels"] != IGNORE).sum()) for inputs in batch.micro_batches]
        tokens = torch.tensor(float(sum(counts)), dtype=torch.float64, device=self.device)
        share = float(mean_over_ranks(tokens))
        self.processed = {"tokens": share * world_size()}
        # A rank with fewer micro-batches than another goes through its last one again, with a weight of zero.
        spare = max_over_ranks(len(counts), self.device) - len(counts)
        micro_batches = [*batch.micro_batches, *[batch.micro_batches[-1]] * spare]
        counts += [0] * spare
        if self._accumulated.step != self.global_step:
            self.trainer.optimizers[0].zero_grad()
            self._accumulated = _Accumulated(self.global_step, share)
        self._sync = GradientSync(self.trainer.strategy.model)
        self._sync.hold()
        parts = []
        for i, (inputs, count) in enumerate(zip(micro_batches, counts, strict=True), start=1):
            output: Tensor = self.generator(self.to_device(inputs))
            parts.append(output.detach())
            output = output * (count / self._accumulated.unit)
            if i < len(micro_batches):
                self._backward_now(output)
                del output  # and what is left of its graph
        weights = torch.tensor([count / share for count in counts], device=self.device)
        loss = (torch.stack(parts) * weights).sum()  # the mean over ranks is that of the batch, as for the gradients
        mean = mean_over_ranks(loss)
        if not torch.isfinite(mean):
            raise NonFiniteError(f"step {self.global_step}: the loss is not finite; lower the learning rate")
        self.log("train/loss", self._accumulated.add(mean, share), prog_bar=True)
        return output + (loss - output.detach())

    def _backward_now(self, output: Tensor) -> None:
        """The backward pass of one micro-batch, with the factors that Lightning gives to the last one's."""
        output = output / self.trainer.accumulate_grad_batches
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is not None:
            output = plugin.scaler.scale(output)
        with torch.autocast(self.device.type, enabled=False):  # as in Lightning's, which comes after `training_step`
            torch.autograd.backward(output)

    def backward(self, loss: Tensor) -> None:
        """The backward pass of the last micro-batch, in which DDP exchanges gradients."""
        torch.autograd.backward(self._sync.release(loss))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Make the gradient that of the mean over tokens, and log its norm before clipping.

        Raises:
            NonFiniteError: If it is NaN or infinite.
        """
        factor = self._accumulated.unit / self._accumulated.tokens * self.trainer.accumulate_grad_batches
        if factor != 1.0:
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
        super().on_before_optimizer_step(optimizer)
