"""EG-RL as a LightningModule: the frozen Embedder rewards the Reasoner's rollouts. Source: Embed-RL §3.3, Eq. 3-7."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from embedrl.data.datamodules.egrl import PairBatch
from embedrl.data.lenient_render import as_lenient
from embedrl.data.sft_batches import LessonBatch
from embedrl.distributed.collectives import gather_objects, max_over_ranks, mean_over_ranks
from embedrl.distributed.fsdp2 import build_frozen
from embedrl.distributed.gradient_sync import GradientSync
from embedrl.distributed.unshard import unsharded
from embedrl.errors import NonFiniteError
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.models.policy_generator import PolicyGenerator
from embedrl.rl.divergence import less_divergence
from embedrl.rl.grpo_loss import GRPOLoss
from embedrl.rl.learnable import check_learnable
from embedrl.rl.mismatch import Mismatch, unexplained
from embedrl.rl.policy import Policy, PolicyBatch, PolicyOptions, ReferenceScorer
from embedrl.rl.rewards.combine import RewardRow, bind_scorer, check_rewards, needed_variants, total_rewards
from embedrl.rl.rollout import LocalRollout, RemoteEngine, RolloutEngine, RolloutOptions
from embedrl.rl.statistics import PhaseClock, mean_over_processes, rollout_figures
from embedrl.rl.step import PairCheck, Prompt, kept_groups, make_prompts, make_step, roll_out, step_seed
from embedrl.rl.token_advantages import AdvantageOptions, TokenAdvantages, token_advantages
from embedrl.rl.types import Rollout
from embedrl.tcot.prompts import Style
from embedrl.training.base import TrainingModule
from embedrl.training.greedy_replies import GreedyReplies
from embedrl.types import Lesson
from embedrl.utils.ranges import check_least

# A checkpoint holds the state after the optimizer step, as with automatic optimisation.
warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")


class EGRLModule(TrainingModule):
    """Trains a Reasoner by what its T-CoTs are worth to the frozen Embedder. Source: Embed-RL §3.3, Eq. 3-7, B.2.

    Optimisation is manual: a training step is a rollout, its rewards, and `inner_epochs` optimizer steps. On several
    processes the pairs of a step are shared out, and rewards see the rollouts of all; under FSDP2 the policy is sharded
    in its own passes and whole on every process meanwhile, as the frozen Embedder always is. Validation is as in
    `ReasonerModule`: greedy T-CoTs, scored against those of a reference teacher; add the callback `ReasonedRetrieval`
    to see how well they retrieve.

    Args:
        generator: The policy; with LoRA its reference is itself with the adapter off.
        embedder: The frozen Embedder; `PolicyVectors` where the policy embeds itself.
        rewards: The parts of the reward with their weights.
        optimizer: The optimizer's class and options.
        loss: The policy loss.
        group_size: Rollouts a prompt (G).
        rollout: How rollouts are drawn.
        policy: How the policy pass is cut up.
        reference: A frozen model to stay close to; None means the policy with its adapter off.
        inner_epochs: Optimizer steps on each step's rollouts (μ). Lightning counts each: `trainer.max_steps`,
            `warmup_steps`, the schedule and `checkpoint.every_n_steps` are in optimizer steps; `val_check_interval`,
            `log_every_n_steps` and the curves of the log are in batches, which are steps on rollouts.
        std_floor: Smallest standard deviation that a group's rewards are divided by.
        advantages: What else becomes of rewards on the way to advantages.
        kl_in_reward: What a nat of KL takes off a rollout's reward: see `less_divergence`.
        filter_groups: Leave groups whose rewards are equal out of the loss: its mean is then over the others alone,
            which weigh more, and no KL holds the ones left out. False is Eq. 6, the mean over all groups. Source: Yu et
            al. 2025, "DAPO" (2503.14476), dynamic sampling, which also draws others instead; here the step shrinks.
        gradient_clip_val: Largest norm of the gradient.
        style: Style of the prompts.
        schedule: Course of the learning rate after the warm-up, by the names of `transformers.get_scheduler`.
        warmup_steps: Optimizer steps over which the learning rate rises from 0.
        schedule_args: More arguments of the schedule.
        max_new_tokens: Longest reply in validation.
        seed: Seed of the rollouts, of what rewards draw, and of dropout; None: the run's (`seed_everything`).
        engine: The engine that writes the rollouts, such as `ServerRollout`; None means the policy itself, in this
            process.
    """

    def __init__(
        self,
        generator: PolicyGenerator,
        embedder: FrozenEmbedder,
        rewards: list[RewardRow],
        optimizer: OptimizerCallable,
        loss: GRPOLoss,
        group_size: int = 8,
        rollout: RolloutOptions = RolloutOptions(),  # noqa: B008 (frozen)
        policy: PolicyOptions = PolicyOptions(),  # noqa: B008 (frozen)
        reference: PolicyGenerator | None = None,
        inner_epochs: int = 1,
        std_floor: float = 0.0,
        advantages: AdvantageOptions = AdvantageOptions(),  # noqa: B008 (frozen)
        kl_in_reward: float = 0.0,
        filter_groups: bool = False,
        gradient_clip_val: float = 1.0,
        style: Style = "full",
        schedule: str = "constant_with_warmup",
        warmup_steps: int = 0,
        schedule_args: dict[str, Any] | None = None,
        max_new_tokens: int = 512,
        seed: int | None = None,
        engine: RemoteEngine | None = None,
    ) -> None:
        super().__init__(locals())
        advantages.check(check_rewards(rewards))
        check_least(1, {"model.inner_epochs": inner_epochs, "model.max_new_tokens": max_new_tokens})
        least = {"std_floor": std_floor, "gradient_clip_val": gradient_clip_val, "kl_in_reward": kl_in_reward}
        check_least(0, {f"model.{name}": value for name, value in least.items()})
        self.generator = generator
        self.embedder, self.rewards, self.policy_loss = embedder, rewards, loss
        self.group_size, self.policy_options, self.style, self.engine = group_size, policy, style, engine
        self.rollout = replace(rollout, seed=self.seed) if rollout.seed is None else rollout
        self.inner_epochs = self.steps_per_batch = inner_epochs
        self.gradient_clip_val, self.kl_in_reward = gradient_clip_val, kl_in_reward
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

    def setup(self, stage: str) -> None:
        """See, before a training, that something can be learned: `check_learnable`.

        Raises:
            ConfigError: If not.
        """
        if stage == "fit":
            pairs = getattr(getattr(self.trainer, "datamodule", None), "batch_size", None)
            check_learnable(self.group_size, self.inner_epochs, self.rollout, self.rewards, pairs)

    def configure_model(self) -> None:
        """Load the weights, and shard the policy if the strategy does."""
        super().configure_model()
        strategy = None if self._trainer is None else self._trainer.strategy
        if self.reference is not None:
            build_frozen(self.reference, strategy)
        self.embedder.prepare(self.generator, strategy)
        drawn = self.rollout.temperature, self.reference, self.rollout.top_p
        self._policy = Policy(self.generator, self.policy_options, *drawn)
        if self.engine is not None:
            self.engine.bind(self.generator, self.rollout)
        self._engine: RolloutEngine = self.engine or LocalRollout(self.generator, self.rollout)
        bind_scorer(self.rewards, ReferenceScorer(self._policy))

    def on_fit_start(self) -> None:
        """Put the reference beside the policy; see that the frozen Embedder can be read."""
        super().on_fit_start()
        self.embedder.backbone.preprocessor()  # its error now, not after the first rollouts
        if self.reference is not None:
            self.reference.to(self.device)

    # ---------------------------------------------------------------- the step

    def pair_check(self) -> PairCheck:
        """What sees in loader workers, before any process rolls out, that a pair can be read."""
        readers = self.generator.preprocessor(), self.embedder.backbone.preprocessor()
        return PairCheck(*readers, as_lenient(self.embedder.render), self.style)

    def training_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Roll out, reward, improve.

        Raises:
            NonFiniteError: If a vector, a reward, the loss or the gradient is not finite.
        """
        number = self.global_step // self.inner_epochs
        clock = PhaseClock()
        pairs = gather_objects(batch.pairs)
        prompts = make_prompts(
            batch.opened, self.global_rank * len(batch.pairs), self.style, self.generator.preprocessor()
        )
        # Whole, because processes write and judge as much as they have to, each at its own pace.
        with unsharded(self.generator):
            rollouts = roll_out(self._engine, prompts, self.group_size, number)
            clock.lap("rollout")
            seed, parts = step_seed(self.seed, number), needed_variants(self.rewards)
            step = make_step(pairs, prompts, rollouts, self.embedder, self.device, seed, parts)
            rewards = total_rewards(self.rewards, step)
            if self.kl_in_reward:
                rewards = less_divergence(rewards, self._policy, prompts, rollouts, self.kl_in_reward)
            clock.lap("reward")
        advantages, figures = token_advantages(rewards, rollouts, self.generator.reply_text, *self._scaling)
        figures |= rewards.metrics | rollout_figures(step, rollouts, self.group_size)
        figures |= self._improve(prompts, rollouts, advantages)
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

    @property
    def replies(self) -> list[tuple[Lesson, str, dict[str, float]]]:
        """What this process wrote in the last validation or test: (lesson, reply, scores)."""
        return self._greedy.rows

    def on_validation_epoch_start(self) -> None:
        """Start collecting replies."""
        self._greedy.start()

    def validation_step(self, batch: LessonBatch, batch_idx: int) -> None:
        """Write T-CoTs to one batch of prompts, greedily."""
        self._greedy.write(batch, self.device)

    def score(self, stage: str) -> None:
        """Log how good the T-CoTs are; see `GreedyReplies.log`."""
        self._greedy.log(self, stage)
