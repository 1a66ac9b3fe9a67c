"""GRPO of a policy on lessons whose replies can be verified: the step of EG-RL, without pairs and an Embedder."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from embedrl.data.datamodules.verifiable_rl import PromptBatch
from embedrl.data.sft_batches import LessonBatch
from embedrl.distributed.unshard import unsharded
from embedrl.errors import ConfigError
from embedrl.models.policy_generator import PolicyGenerator
from embedrl.rl.grpo_loss import GRPOLoss
from embedrl.rl.learnable import check_learnable
from embedrl.rl.policy import PolicyOptions
from embedrl.rl.policy_module import PolicyModule
from embedrl.rl.reply_rewards import ReplyRewardRow, score_by, step_rows, total_reply_rewards
from embedrl.rl.rewards.combine import check_rewards
from embedrl.rl.rollout import RemoteEngine, RolloutOptions
from embedrl.rl.statistics import PhaseClock, length_figures
from embedrl.rl.step import Prompt, roll_out
from embedrl.types import Role, Side


class VerifiableRLModule(PolicyModule):
    """Trains a policy by what its replies to lessons are worth, as functions of lesson and text say.

    The step is that of `EGRLModule`: rollouts, rewards, advantages inside each lesson's group, and the policy loss; in
    place of pairs and the frozen Embedder there are lessons (`embedrl.VerifiableRLDataModule`) with what is right
    in their `gold`. On several processes each rewards the rollouts of its own lessons. Validation writes greedily and
    logs the same rewards: `val/<kind>/<name>` and `val/<kind>/reward`, their weighted sum.

    Args:
        generator: The policy; with LoRA its reference is itself with the adapter off.
        rewards: The parts of the reward with their weights.
        optimizer: The optimizer's class and options.
        loss: The policy loss.
        group_size: Rollouts a lesson (G).
        rollout: How rollouts are drawn.
        policy: How the policy pass is cut up.
        reference: A frozen model to stay close to; None means the policy with its adapter off.
        inner_epochs: Optimizer steps on each step's rollouts (μ).
        std_floor: Smallest standard deviation that a group's rewards are divided by.
        filter_groups: Leave groups whose rewards are equal out of the loss.
        gradient_clip_val: Largest norm of the gradient.
        schedule: Course of the learning rate after the warm-up, by the names of `transformers.get_scheduler`.
        warmup_steps: Optimizer steps over which the learning rate rises from 0.
        schedule_args: More arguments of the schedule.
        max_new_tokens: Longest reply in validation.
        seed: Seed of the rollouts and of dropout; None: the run's (`seed_everything`).
        engine: The engine that writes the rollouts, such as `ServerRollout`; None means the policy itself, in this
            process.
    """

    def __init__(
        self,
        generator: PolicyGenerator,
        rewards: list[ReplyRewardRow],
        optimizer: OptimizerCallable,
        loss: GRPOLoss,
        group_size: int = 8,
        rollout: RolloutOptions = RolloutOptions(),  # noqa: B008 (frozen)
        policy: PolicyOptions = PolicyOptions(),  # noqa: B008 (frozen)
        reference: PolicyGenerator | None = None,
        inner_epochs: int = 1,
        std_floor: float = 0.0,
        filter_groups: bool = False,
        gradient_clip_val: float = 1.0,
        schedule: str = "constant_with_warmup",
        warmup_steps: int = 0,
        schedule_args: dict[str, Any] | None = None,
        max_new_tokens: int = 512,
        seed: int | None = None,
        engine: RemoteEngine | None = None,
    ) -> None:
        super().__init__(locals())
        check_rewards(step_rows(rewards, {}))
        self.prepare(
            generator, loss, group_size, rollout, policy, reference, inner_epochs, std_floor, filter_groups,
            gradient_clip_val, max_new_tokens, engine,
        )  # fmt: skip
        self.reply_rewards = rewards

    def setup(self, stage: str) -> None:
        """See, before a training, that something can be learned: `check_learnable`.

        Raises:
            ConfigError: If not.
        """
        super().setup(stage)
        if stage == "fit":
            check_learnable(self.group_size, self.inner_epochs, self.rollout, step_rows(self.reply_rewards, {}), None)

    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Roll out, reward, improve.

        Raises:
            ConfigError: If the data module gives no lessons.
            NonFiniteError: If a reward, the loss or the gradient is not finite.
        """
        if not isinstance(batch, PromptBatch):
            raise ConfigError("VerifiableRLModule replies to lessons: give data: embedrl.VerifiableRLDataModule")
        number = self.global_step // self.inner_epochs
        clock = PhaseClock()
        first = self.global_rank * len(batch.lessons)
        prompts = [
            Prompt(place, Role.QUERY, Side(), lesson.chat, inputs)
            for place, (lesson, inputs) in enumerate(zip(batch.lessons, batch.inputs, strict=True), first)
        ]
        with unsharded(self.generator):
            drawn = roll_out(self._engine, prompts, self.group_size, number)
        clock.lap("rollout")
        rewards = total_reply_rewards(self.reply_rewards, dict(enumerate(batch.lessons, first)), drawn)
        clock.lap("reward")
        self.learn(prompts, drawn, rewards, length_figures(drawn, self.group_size), clock)

    def validation_step(self, batch: LessonBatch, batch_idx: int) -> None:
        """Reply to one batch of prompts, greedily, and score the replies by the rewards too."""
        before = len(self._greedy.rows)
        super().validation_step(batch, batch_idx)
        for lesson, reply, scores in self._greedy.rows[before:]:
            scores.update(score_by(self.reply_rewards, lesson, reply))
