"""Settings by which EG-RL would run to its end and learn nothing: refused before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from embedrl.errors import ConfigError
from embedrl.rl.rewards.combine import RewardRow
from embedrl.rl.rollout import RolloutOptions


def check_learnable(
    group_size: int, inner_epochs: int, rollout: RolloutOptions, rewards: Sequence[RewardRow], pairs: int | None
) -> None:
    """Check what decides whether the rewards of a group can differ.

    Args:
        group_size: Rollouts a prompt.
        inner_epochs: Optimizer steps on each step's rollouts.
        rollout: How they are drawn.
        rewards: The parts of the reward.
        pairs: Pairs in a step; None if that is not known.

    Raises:
        ConfigError: If they cannot.
    """
    if group_size < 2:
        raise ConfigError(
            f"model.group_size is {group_size}: a rollout learns from how its reward differs from the others' of its "
            "group; give 2 or more, such as 8"
        )
    if inner_epochs < 1:
        raise ConfigError(f"model.inner_epochs is {inner_epochs}: no optimizer step would be made; give 1 or more")
    if rollout.temperature == 0:
        raise ConfigError(
            "model.rollout.temperature is 0: all rollouts of a group would be the same; give a number above 0 (1, say)"
        )
    names = [row.reward.name for row in rewards if getattr(row.reward, "compares_pairs", False)]
    if names and pairs is not None and pairs < 2:
        raise ConfigError(
            f"data.batch_size is {pairs}: a pair is compared with the others of its step ({', '.join(names)}), and "
            "without any no rollout has a reward; give 2 or more"
        )
