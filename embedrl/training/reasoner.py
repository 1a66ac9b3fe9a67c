"""Trains a model to write: cross-entropy on the reply, scored by what it writes itself."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
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
from embedrl.models.qwen_vl.preprocess import IGNORE
from embedrl.training.base import TrainingModule
from embedrl.training.greedy_replies import GreedyReplies
from embedrl.types import Lesson


class ReasonerModule(TrainingModule):
    """Supervised training of a generator. Source: Embed-RL §3.2 (T-CoTs as labels).

    Args:
        generator: The model and its options; its weights load when a run starts.
        optimizer: The optimizer's class and options, such as AdamW with its learning rate.
        schedule: Course of the learning rate after the warm-up, by the names of `transformers.get_scheduler`.
        warmup_steps: Optimizer steps over which the learning rate rises from 0.
        schedule_args: More arguments of the schedule, such as `num_decay_steps` of `warmup_stable_decay`.
        max_new_tokens: Longest reply in validation.
        seed: Seed of dropout; every step draws from (seed, step, rank), so a resumed run repeats it.
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
        super().__init__(locals())
        self.generator = generator
        self._greedy = GreedyReplies(generator, max_new_tokens)

    @property
    def trained_model(self) -> Generator:
        """The generator."""
        return self.generator

    @property
    def replies(self) -> list[tuple[Lesson, str, dict[str, float]]]:
        """What this process wrote in the last validation or test: (lesson, reply, scores)."""
        return self._greedy.rows

    # ---------------------------------------------------------------- training

    def training_step(self, batch: LessonBatch, batch_idx: int) -> Tensor:
        """Mean cross-entropy over the reply tokens of the whole batch, however it is cut into micro-batches and ranks.

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
        self._parts = [self.generator(self.to_device(inputs)) for inputs in micro_batches]
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

    # ---------------------------------------------------------------- scoring

    def on_validation_epoch_start(self) -> None:
        """Start collecting replies."""
        self._greedy.start()

    def validation_step(self, batch: LessonBatch, batch_idx: int) -> None:
        """Write the replies of one batch of prompts, greedily."""
        self._greedy.write(batch, self.device)

    def score(self, stage: str) -> None:
        """Log how good the replies are; see `GreedyReplies.log`."""
        self._greedy.log(self, stage)
