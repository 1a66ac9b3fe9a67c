"""What trainings of a policy by rewards share: the engine, the optimizer steps on rollouts, validation."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from embedrl.distributed.collectives import max_over_ranks, mean_over_ranks
from embedrl.distributed.fsdp2 import build_frozen
from embedrl.distributed.gradient_sync import GradientSync
from embedrl.distributed.unshard import unsharded
from embedrl.errors import NonFiniteError
from embedrl.models.policy_generator import PolicyGenerator
from embedrl.rl.grpo_loss import GRPOLoss
from embedrl.rl.mismatch import Mismatch, unexplained
from embedrl.rl.policy import Policy, PolicyBatch, PolicyOptions
from embedrl.rl.rewards.combine import StepRewards
from embedrl.rl.rollout import LocalRollout, RemoteEngine, RolloutEngine, RolloutOptions
from embedrl.rl.statistics import PhaseClock, mean_over_processes
from embedrl.rl.step import Prompt, kept_groups
from embedrl.rl.token_advantages import AdvantageOptions, TokenAdvantages, token_advantages
from embedrl.rl.types import Rollout
from embedrl.training.greedy_replies import GreedyReplies, WritingModule
from embedrl.utils.ranges import check_least

# A checkpoint holds the state after the optimizer step, as with automatic optimisation.
warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")


class PolicyModule(WritingModule):
    """Base of the trainings of a policy by rewards: GRPO's steps on rollouts, and validation by greedy replies.

    A subclass calls `prepare` in `__init__`. Its `training_step` rolls out with `_engine`, rewards, and calls `learn`.

    Attributes:
        rollouts: Those of the last step on this process, each with its rewards by name.
    """

    def prepare(
        self,
        generator: PolicyGenerator,
        loss: GRPOLoss,
        group_size: int,
        rollout: RolloutOptions,
        policy: PolicyOptions,
        reference: PolicyGenerator | None,
        inner_epochs: int,
        std_floor: float,
        filter_groups: bool,
        gradient_clip_val: float,
        max_new_tokens: int,
        engine: RemoteEngine | None,
        advantages: AdvantageOptions = AdvantageOptions(),  # noqa: B008 (frozen)
    ) -> None:
        """Take the arguments that all trainings of a policy have; see `EGRLModule`.

        Raises:
            ConfigError: If a number is out of its range.
        """
        check_least(1, {"model.inner_epochs": inner_epochs, "model.max_new_tokens": max_new_tokens})
        check_least(0, {"model.std_floor": std_floor, "model.gradient_clip_val": gradient_clip_val})
        self.generator, self.policy_loss = generator, loss
        self.group_size, self.policy_options, self.engine = group_size, policy, engine
        self.rollout = replace(rollout, seed=self.seed) if rollout.seed is None else rollout
        self.inner_epochs = self.steps_per_batch = inner_epochs
        self.gradient_clip_val = gradient_clip_val
        self._scaling = (std_floor, filter_groups, advantages)
        self._reference = [reference]  # in a list: no part of the module, so neither saved nor trained
        self.automatic_optimization = False
        self.rollouts: list[tuple[Rollout, dict[str, float | None]]] = []
        self._greedy = GreedyReplies(generator, max_new_tokens)

    @property
    def trained_model(self) -> PolicyGenerator:
        """The policy."""
        return self.generator

    @property
    def reference(self) -> PolicyGenerator | None:
        """The frozen model to stay close to, if it is another one."""
        return self._reference[0]

    def configure_model(self) -> None:
        """Load the weights, and shard the policy if the strategy does."""
        super().configure_model()
        if self.reference is not None:
            build_frozen(self.reference, None if self._trainer is None else self._trainer.strategy)
        drawn = self.rollout.temperature, self.reference, self.rollout.top_p
        self._policy = Policy(self.generator, self.policy_options, *drawn)
        if self.engine is not None:
            self.engine.bind(self.generator, self.rollout)
        self._engine: RolloutEngine = self.engine or LocalRollout(self.generator, self.rollout)

    def on_fit_start(self) -> None:
        """Put the reference beside the policy."""
        super().on_fit_start()
        if self.reference is not None:
            self.reference.to(self.device)

    # ---------------------------------------------------------------- the step

    def learn(
        self,
        prompts: Sequence[Prompt],
        rollouts: Sequence[Rollout],
        rewards: StepRewards,
        figures: dict[str, float],
        clock: PhaseClock,
    ) -> None:
        """Improve the policy on this process's rollouts, and log the step.

        Args:
            prompts: Their prompts.
            rollouts: The rollouts.
            rewards: Their rewards.
            figures: What else to log.
            clock: The seconds of the step's phases so far.

        Raises:
            NonFiniteError: If the loss or the gradient is not finite.
        """
        advantages, more = token_advantages(rewards, rollouts, self.generator.reply_text, *self._scaling)
        figures = more | rewards.metrics | figures | self._improve(prompts, rollouts, advantages)
        clock.lap("policy")
        tokens = sum(len(rollout.tokens) for rollout in rollouts)
        figures |= {f"time/{name}_tokens_per_s": tokens / seconds for name, seconds in clock.seconds.items()}
        self.rollouts = [(r, {name: part[r.id] for name, part in rewards.parts.items()}) for r in rollouts]
        self.log_dict(means := mean_over_processes(figures))
        if "reward/total/mean" in means:
            self.log("reward", means["reward/total/mean"], prog_bar=True, logger=False)

    def _improve(
        self, prompts: Sequence[Prompt], rollouts: Sequence[Rollout], advantages: TokenAdvantages
    ) -> dict[str, float]:
        """The optimizer steps on one step's rollouts; every process runs the same number of passes."""
        groups, kept = kept_groups(prompts, rollouts, advantages.values)
        batches = self._policy.batches(groups)
        real, calls = len(batches), max_over_ranks(len(batches), self.device)
        if real < calls:
            # A process with less to learn from goes through the motions with a weight of zero.
            spare = batches or self._policy.batches(kept_groups(prompts, rollouts)[0])
            batches += [spare[0]] * (calls - real)
        count = self._count(sum(map(len, kept)), sum(len(r.tokens) for row in kept for r in row))
        references = self._references(batches)
        old: list[Tensor | None] = [None] * calls
        optimizer: Any = self.optimizers()
        figures: dict[str, list[tuple[float, float]]] = defaultdict(list)
        losses: list[float] = []
        self._mismatch, mismatch = Mismatch(self._policy.unexplained_top_p), {}
        sync = GradientSync(self.trainer.strategy.model)
        for epoch in range(self.inner_epochs):
            optimizer.zero_grad()
            for i, batch in enumerate(batches):
                weight = 1.0 if i < real else 0.0
                loss, metrics, old[i], size = self._batch_loss(
                    batch, kept, advantages, references[i], old[i], weight, count
                )
                losses.append(float(loss.detach()))
                if i == 0 and calls > 1:
                    sync.hold()
                if i == calls - 1:
                    loss = sync.release(loss)
                self.manual_backward(loss)
                for name, value in metrics.items():
                    figures[name].append((float(value), size * weight))
            if not math.isfinite(sum(losses)):  # not before: the other processes wait for the gradients of this one
                raise NonFiniteError(f"step {self.global_step}: the policy loss is not finite; lower the learning rate")
            if self.engine is not None:
                mismatch = self._mismatch.check(self.engine, self.global_step)
            if calls:
                figures["grad_norm"].append((float(self.gradient_norm(f" (inner epoch {epoch})")), 1.0))
                self.clip_gradients(optimizer, self.gradient_clip_val, "norm")
            optimizer.step()
            scheduler: Any = self.lr_schedulers()
            scheduler.step()
        if calls:
            figures["loss"] = [(sum(losses) / self.inner_epochs, 1.0)]  # the mean over processes is the step's
        return {
            f"policy/{name}": sum(v * w for v, w in weighted) / total
            for name, weighted in figures.items()
            if (total := sum(w for _, w in weighted))
        } | mismatch

    def _count(self, rollouts: int, tokens: int) -> float:
        """What the losses of all micro-batches are divided by, so that the ranks' mean gradient is the step's."""
        mean = mean_over_ranks(torch.tensor([rollouts, tokens], dtype=torch.float64, device=self.device))
        return max(float(mean[0] if self.policy_loss.aggregation == "sequence_mean" else mean[1]), 1e-8)

    def _references(self, batches: Sequence[PolicyBatch]) -> list[Tensor | None]:
        """Log-probabilities of the batches' tokens under the reference, which no inner epoch changes."""
        if not self.policy_loss.kl_coefficient:
            return [None] * len(batches)
        with unsharded(self.generator):
            return [self._policy.reference_log_probs(batch).logprobs for batch in batches]

    def _batch_loss(
        self,
        batch: PolicyBatch,
        kept: Sequence[Sequence[Rollout]],
        advantages: TokenAdvantages,
        reference: Tensor | None,
        old: Tensor | None,
        weight: float,
        count: float,
    ) -> tuple[Tensor, dict[str, Tensor], Tensor, float]:
        """Loss and figures of one micro-batch of the policy pass."""
        current = self._policy.log_probs(batch)
        old = current.logprobs.detach() if old is None else old
        members = [kept[group][i] for group, i in batch.replies] if weight else []
        values = advantages.of(members, current.logprobs.shape, self.device)
        behaviour = torch.zeros_like(old)
        for row, rollout in enumerate(members):
            behaviour[row, : len(rollout.logprobs)] = torch.tensor(rollout.logprobs, device=self.device)
        loss, metrics = self.policy_loss(
            current.logprobs, old, values, current.mask, reference, behaviour if members else old, count
        )
        size = float(current.mask.sum())
        metrics |= {"entropy": current.entropy.detach().sum() / max(size, 1.0)}
        if members:
            metrics["engine_gap"] = (unexplained(old, behaviour, self._policy.unexplained_top_p) * current.mask).max()
            if self.engine is not None:
                self._mismatch.add(old, behaviour, current.mask)
        return loss * weight, metrics, old, size
