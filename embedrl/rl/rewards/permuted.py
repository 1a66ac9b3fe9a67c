"""A control experiment: the rewards of a group, randomly permuted among its rollouts."""

from __future__ import annotations

import random
from collections import defaultdict

from embedrl.data.variants import Variant
from embedrl.rl.rewards.judge import ChoiceScorer, NeedsScorer
from embedrl.rl.types import Reward, RewardResult, RolloutStep


class PermutedReward:
    """R_perm(o_i) = R(o_π(i)), π a permutation of the rollouts of o_i's group, drawn from `RolloutStep.seed`.

    Size and spread of the advantages stay as they are, but they say nothing about the rollouts: whatever a training
    with this gains, it does not gain by its rewards. Rewards of one step are permuted alike.

    Args:
        reward: The reward whose values are permuted.

    >>> from embedrl.rl.types import Rollout
    >>> from embedrl.types import Role
    >>> class Index:
    ...     name = "index"
    ...     def __call__(self, step):
    ...         return RewardResult({r.id: float(r.index) for r in step.rollouts})
    >>> rollouts = [Rollout(0, Role.QUERY, i, (), (), "") for i in range(4)]
    >>> step = RolloutStep([], rollouts, {}, {}, frozenset(r.id for r in rollouts), seed=1)
    >>> list(PermutedReward(Index())(step).values.values())
    [1.0, 3.0, 0.0, 2.0]
    """

    def __init__(self, reward: Reward) -> None:
        self.reward = reward

    @property
    def name(self) -> str:
        """That of the reward."""
        return self.reward.name

    @property
    def compares_pairs(self) -> bool:
        """As the reward does."""
        return bool(getattr(self.reward, "compares_pairs", False))

    @property
    def variants(self) -> tuple[Variant, ...]:
        """As the reward reads."""
        return tuple(getattr(self.reward, "variants", ()))

    def bind(self, scorer: ChoiceScorer) -> None:
        """Pass the reference model on."""
        if isinstance(self.reward, NeedsScorer):
            self.reward.bind(scorer)

    def __call__(self, step: RolloutStep) -> RewardResult:
        """Score the rollouts, then permute the values within each group."""
        result = self.reward(step)
        groups: dict[str, list[str]] = defaultdict(list)
        for rollout in sorted(step.rollouts, key=lambda rollout: rollout.id):
            if rollout.id in result.values:
                groups[rollout.group].append(rollout.id)
        values: dict[str, float | None] = {}
        sections: dict[str, tuple[float, ...] | None] = {}
        for group, ids in groups.items():
            dealt = random.Random(f"{step.seed}/{group}").sample(ids, len(ids))
            values |= {name: result.values[other] for name, other in zip(ids, dealt, strict=True)}
            if result.sections is not None:
                sections |= {name: result.sections[other] for name, other in zip(ids, dealt, strict=True)}
        return RewardResult(values, result.metrics, None if result.sections is None else sections)
