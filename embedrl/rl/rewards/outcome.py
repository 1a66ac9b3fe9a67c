"""Outcome reward: does the T-CoT bring its side near its partner? Source: Embed-RL §3.3, Eq. 4."""

from __future__ import annotations

import torch
from torch import Tensor

from embedrl.errors import ConfigError
from embedrl.rl.rewards.comparison import Comparison, NegativeWeights, compare_roles, margins
from embedrl.rl.types import RewardResult, RolloutStep
from embedrl.types import Role

TIE = 1e-6
"""A negative this close below a positive counts as nearer: float32 vectors tell no finer difference."""


class OutcomeReward:
    """R_o = Acc_k(o) · ( mean_p sim(o, p) - Σ_n w_n sim(o, n) ),  w = softmax( sim(o, n) / τ ).

    `o` is a rollout of a query, `p` the rollouts of its pair's target, `n` those of the other pairs' targets; `Acc_k`
    is the share of `p` among the k most similar of all, k being the number of `p`. The same the other way round rewards
    the rollouts of targets. A tie goes to the negative.

    A rollout with nothing to be compared with (a step of one pair, or of duplicates alone; a partner without rollouts)
    has no verdict: its accuracy would be 1 whatever it says.

    Args:
        temperature: τ; smaller means that the hardest negatives weigh more.
        negatives: `softmax`, or `uniform` for the plain mean over the negatives.
        mask_duplicates: Leave out other pairs whose target is a known answer to the same query (see `compare_roles`).
            False reproduces the paper, where they are false negatives.

    Raises:
        ConfigError: If an option is out of its range.

    >>> from embedrl.rl.types import Rollout
    >>> from embedrl.types import Pair, Role, Side
    >>> pairs = [Pair(Side(f"query {i}"), Side(f"target {i}"), "demo", str(i)) for i in range(2)]
    >>> rollouts = [Rollout(i, role, 0, (), (), "") for i in range(2) for role in Role]
    >>> vectors = dict(zip((r.id for r in rollouts), torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.0, 1.0]])))
    >>> step = RolloutStep(pairs, rollouts, vectors, {}, frozenset(vectors))
    >>> {name: round(value, 3) + 0.0 for name, value in OutcomeReward()(step).values.items()}
    {'0/query/0': 0.6, '1/query/0': 0.2, '0/target/0': 0.0, '1/target/0': 1.0}
    """

    name = "outcome"
    compares_pairs = True

    def __init__(
        self, temperature: float = 0.5, negatives: NegativeWeights = "softmax", mask_duplicates: bool = True
    ) -> None:
        if not temperature > 0:
            raise ConfigError(f"outcome.temperature is {temperature}: give a positive number, such as 0.5")
        if negatives not in ("softmax", "uniform"):
            raise ConfigError(f"outcome.negatives is {negatives!r}: give softmax or uniform")
        self.temperature = temperature
        self.negatives: NegativeWeights = negatives
        self.mask_duplicates = mask_duplicates

    def __call__(self, step: RolloutStep) -> RewardResult:
        """Score the rollouts of this process against all of the step.

        Raises:
            NonFiniteError: If a vector is NaN or infinite.
        """
        values: dict[str, float | None] = {}
        accuracies: list[float] = []
        gaps: list[float] = []
        for role in Role:
            comparison = compare_roles(step, role, self.mask_duplicates)
            accuracy = _accuracy(comparison)
            gap = margins(comparison, self.temperature, self.negatives)
            names = [r.id for r in comparison.anchors]
            values |= dict(zip(names, (accuracy * gap).tolist(), strict=True)) | dict.fromkeys(comparison.unjudged)
            accuracies += accuracy.tolist()
            gaps += gap.tolist()
        metrics = {}
        if accuracies:
            metrics = {"accuracy": sum(accuracies) / len(accuracies), "margin": sum(gaps) / len(gaps)}
        return RewardResult(values, metrics)


def _accuracy(comparison: Comparison) -> Tensor:
    """Share of the positives among the k candidates nearest to each anchor, k = number of positives, `[anchors]`."""
    similarity, positive, negative = comparison.similarity, comparison.positive, comparison.negative
    k = positive.sum(1, keepdim=True)
    most = int(k.max()) if len(k) else 0
    positives = similarity.masked_fill(~positive, -torch.inf).sort(1, descending=True).values[:, :most].contiguous()
    negatives = similarity.masked_fill(~negative, -torch.inf).sort(1).values
    # Before the j-th best positive stand j positives and every negative that is not clearly below it.
    nearer = negatives.shape[1] - torch.searchsorted(negatives, positives - TIE)
    place = nearer + torch.arange(most, device=nearer.device)
    return (place < k).sum(1) / k[:, 0].double()
