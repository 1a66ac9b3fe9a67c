"""EG-RL as a LightningModule: the frozen Embedder rewards the Reasoner's rollouts. Source: Embed-RL §3.3, Eq. 3-7."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from embedrl.data.datamodules.egrl import PairBatch
from embedrl.data.lenient_render import as_lenient
from embedrl.distributed.collectives import gather_objects
from embedrl.distributed.unshard import unsharded
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.models.policy_generator import PolicyGenerator
from embedrl.rl.divergence import less_divergence
from embedrl.rl.grpo_loss import GRPOLoss
from embedrl.rl.learnable import check_learnable
from embedrl.rl.policy import PolicyOptions, ReferenceScorer
from embedrl.rl.policy_module import PolicyModule
from embedrl.rl.rewards.combine import RewardRow, bind_scorer, check_rewards, needed_variants, total_rewards
from embedrl.rl.rollout import RemoteEngine, RolloutOptions
from embedrl.rl.statistics import PhaseClock, rollout_figures
from embedrl.rl.step import PairCheck, make_prompts, make_step, roll_out, step_seed
from embedrl.rl.token_advantages import AdvantageOptions
from embedrl.tcot.prompts import Style
from embedrl.utils.ranges import check_least


class EGRLModule(PolicyModule):
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
        check_least(0, {"model.kl_in_reward": kl_in_reward})
        self.prepare(
            generator, loss, group_size, rollout, policy, reference, inner_epochs, std_floor, filter_groups,
            gradient_clip_val, max_new_tokens, engine, advantages,
        )  # fmt: skip
        self.embedder, self.rewards, self.style, self.kl_in_reward = embedder, rewards, style, kl_in_reward

    def setup(self, stage: str) -> None:
        """See, before a training, that something can be learned: `check_learnable`.

        Raises:
            ConfigError: If not.
        """
        super().setup(stage)
        if stage == "fit":
            pairs = getattr(getattr(self.trainer, "datamodule", None), "batch_size", None)
            check_learnable(self.group_size, self.inner_epochs, self.rollout, self.rewards, pairs)

    def configure_model(self) -> None:
        """Load the weights, and shard the policy if the strategy does."""
        super().configure_model()
        self.embedder.prepare(self.generator, None if self._trainer is None else self._trainer.strategy)
        bind_scorer(self.rewards, ReferenceScorer(self._policy))

    def on_fit_start(self) -> None:
        """See that the frozen Embedder can be read."""
        super().on_fit_start()
        self.embedder.backbone.preprocessor()  # its error now, not after the first rollouts

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
        self.learn(prompts, rollouts, rewards, rollout_figures(step, rollouts, self.group_size), clock)
