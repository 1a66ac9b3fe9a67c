"""Rewards → advantages, normalised inside each group of rollouts of one side. Source: Embed-RL §3.3, Eq. 6."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from embedrl.errors import NonFiniteError

EPSILON = 1e-4
"""Added to the standard deviation, as TRL does."""

SAME = 1e-6
"""Rewards of a group whose standard deviation is not above this differ by rounding alone: they say nothing."""

Scale = Literal["group", "none", "best"]


@dataclass(frozen=True, slots=True)
class GroupAdvantages:
    """Advantages and what was left out of them.

    Attributes:
        values: Advantage by rollout id; a rollout that is not here takes no part in the policy step.
        groups: Number of groups that were given.
        zero_variance: Groups whose rewards are equal.
        too_small: Groups of which fewer than two rollouts have a verdict.
        no_verdict: Rollouts left out because they have no reward.
    """

    values: dict[str, float]
    groups: int
    zero_variance: int
    too_small: int
    no_verdict: int


def group_advantages(
    rewards: Mapping[str, float | None],
    groups: Mapping[str, str],
    std_floor: float = 0.0,
    filter_groups: bool = False,
    scale: Scale = "group",
) -> GroupAdvantages:
    """Subtract the group's mean, divide by `max(standard deviation, std_floor) + 1e-4`.

    The standard deviation is the unbiased one (n - 1). With `std_floor=0` the figures are those of TRL's GRPOTrainer
    with `scale_rewards="group"`. A group without a difference has advantages of 0: it teaches nothing, but counts in
    the mean of the loss and is held by its KL penalty (Eq. 6), unless it is filtered out.

    Args:
        rewards: Reward by rollout id; None is no verdict.
        groups: Group by rollout id, at least of every id of `rewards`.
        std_floor: Smallest standard deviation to divide by, in units of the reward: keeps groups that hardly differ
            from counting as much as those that do.
        filter_groups: Leave out the rollouts of groups whose rewards are equal, or of which fewer than two have a
            verdict. Source: Yu et al. 2025, "DAPO" (2503.14476), dynamic sampling, without drawing others instead.
        scale: `none` does not divide: a group's advantages are as large as its rewards differ, as with TRL's
            `scale_rewards="none"`. Source: Liu et al. 2025, "Understanding R1-Zero-Like Training" (2503.20783),
            Dr. GRPO, which finds that dividing favours questions that are nearly always or never answered. `best` is
            no policy gradient: the best rollout of a group has 1 and the others take no part, so that the step is one
            of cross-entropy on it. Source: Dong et al. 2023, "RAFT" (2304.06767), rejection sampling.

    Raises:
        NonFiniteError: If a reward is NaN or infinite.

    >>> group_advantages({"a": 1.0, "b": 0.0, "c": None, "d": 0.5, "e": 0.5}, dict(zip("abcde", "xxxyy"))).values
    {'a': 0.707..., 'b': -0.707...}
    """
    broken = [name for name, reward in rewards.items() if reward is not None and not math.isfinite(reward)]
    if broken:
        raise NonFiniteError(
            f"the rewards of {len(broken)} rollouts are NaN or infinite (first: {broken[0]}): look at the parts of the "
            "reward and at the Embedder's vectors"
        )
    members: dict[str, dict[str, float]] = {groups[name]: {} for name in rewards}
    for name, reward in rewards.items():
        if reward is not None:
            members[groups[name]][name] = reward
    values: dict[str, float] = {}
    zero_variance = too_small = 0
    for group in members.values():
        # fsum: the sums, and so the advantages, do not depend on the order of the rollouts.
        mean = math.fsum(group.values()) / max(len(group), 1)
        std = math.sqrt(math.fsum((reward - mean) ** 2 for reward in group.values()) / max(len(group) - 1, 1))
        if std <= SAME:
            too_small += len(group) < 2
            zero_variance += len(group) >= 2
            if not filter_groups:
                values |= dict.fromkeys(group, 0.0)
            continue
        if scale == "best":
            values[max(sorted(group), key=group.__getitem__)] = 1.0  # of equals the first by name, in any order
            continue
        divisor = max(std, std_floor) + EPSILON if scale == "group" else 1.0
        values |= {name: (reward - mean) / divisor for name, reward in group.items()}
    no_verdict = sum(reward is None for reward in rewards.values())
    return GroupAdvantages(values, len(members), zero_variance, too_small, no_verdict)
