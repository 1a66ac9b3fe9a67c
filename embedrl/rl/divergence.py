"""The KL as a part of the reward, in place of the loss. Source: Ouyang et al. 2022, InstructGPT (2203.02155)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from embedrl.rl.policy import Policy
from embedrl.rl.rewards.combine import StepRewards
from embedrl.rl.step import Prompt, kept_groups
from embedrl.rl.types import Rollout


@torch.no_grad()
def less_divergence(
    rewards: StepRewards, policy: Policy, prompts: Sequence[Prompt], rollouts: Sequence[Rollout], coefficient: float
) -> StepRewards:
    """The rewards with `coefficient * Σ_t (log policy - log reference)` taken off every total.

    A KL in the reward holds a token back for what it leads to as well; GRPO moved it into the loss
    (`loss.kl_coefficient`), which then is best 0.

    Args:
        rewards: The rewards of this process's rollouts.
        policy: The policy that wrote them, and its reference.
        prompts: This process's prompts.
        rollouts: Its rollouts.
        coefficient: Reward a nat.

    Returns:
        The new totals, and `reward/divergence`, the mean of the sum in nats.
    """
    groups, members = kept_groups(prompts, rollouts)
    nats: dict[str, float] = {rollout.id: 0.0 for rollout in rollouts}
    for batch in policy.batches(groups):
        own, reference = policy.log_probs(batch), policy.reference_log_probs(batch)
        sums = ((own.logprobs - reference.logprobs) * own.mask).sum(1).tolist()
        nats |= {members[group][i].id: value for (group, i), value in zip(batch.replies, sums, strict=True)}
    totals = {
        name: None if total is None else total - coefficient * nats[name] for name, total in rewards.totals.items()
    }
    mean = sum(nats.values()) / max(len(nats), 1)
    return replace(rewards, totals=totals, metrics=rewards.metrics | {"reward/divergence": mean})
