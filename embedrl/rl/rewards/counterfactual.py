"""Counterfactual evidence: do the crops help, or the words alone? Source: Embed-RL §4.3, the ablation of evidence."""

from __future__ import annotations

from embedrl.data.variants import Variant
from embedrl.errors import ConfigError
from embedrl.rl.rewards.comparison import compare_roles, instead, margins
from embedrl.rl.types import RewardResult, RolloutStep
from embedrl.types import Role


class CounterfactualReward:
    """R_c = margin(o) - margin(o without its crops and key frames), margin = mean_p sim(o, p) - Σ_n w_n sim(o, n).

    The margin is that of `OutcomeReward`. What differs between the two is what the Embedder sees beside the words: the
    words stay, their cues too. So a T-CoT that says the right thing and points elsewhere earns less than one that
    points at what it speaks of, although both may win. A side without evidence (a text) earns 0.

    Beside an outcome, not alone: words that say little leave more for the crops to do.

    Args:
        temperature: τ of the margin.
        mask_duplicates: As in `OutcomeReward`.

    Raises:
        ConfigError: If the temperature is not above 0.

    Source: the ablation of Embed-RL §4.3 (evidence left out) as a reward of each rollout.

    >>> import torch
    >>> from embedrl.rl.types import Rollout
    >>> from embedrl.types import Pair, Side
    >>> pairs = [Pair(Side(f"query {i}"), Side(f"target {i}"), "demo", str(i)) for i in range(2)]
    >>> rollouts = [Rollout(i, role, 0, (), (), "") for i in range(2) for role in Role]
    >>> vectors = {r.id: torch.eye(2)[r.pair] for r in rollouts}
    >>> variants = {"no_evidence": dict.fromkeys(vectors, torch.tensor([0.8, 0.6]))}
    >>> step = RolloutStep(pairs, rollouts, vectors, {}, frozenset(["0/query/0"]), variants=variants)
    >>> {name: round(value, 3) for name, value in CounterfactualReward()(step).values.items()}  # 1 - (0.8 - 0.6)
    {'0/query/0': 0.8}
    """

    name = "counterfactual"
    compares_pairs = True
    variants: tuple[Variant, ...] = ("no_evidence",)

    def __init__(self, temperature: float = 0.5, mask_duplicates: bool = True) -> None:
        if not temperature > 0:
            raise ConfigError(f"counterfactual.temperature is {temperature}: give a positive number, such as 0.5")
        self.temperature, self.mask_duplicates = temperature, mask_duplicates

    def __call__(self, step: RolloutStep) -> RewardResult:
        """Score the rollouts of this process.

        Raises:
            NonFiniteError: If a vector is NaN or infinite.
        """
        values: dict[str, float | None] = {}
        helped: list[float] = []
        for role in Role:
            comparison = compare_roles(step, role, self.mask_duplicates)
            values |= dict.fromkeys(comparison.unjudged)
            if not comparison.anchors:
                continue
            bare = instead(comparison, step, step.variants["no_evidence"])
            gain = margins(comparison, self.temperature, "softmax") - margins(bare, self.temperature, "softmax")
            # The same input in two passes: what differs is rounding.
            gain = gain.masked_fill(gain.abs() < 1e-5, 0.0)
            values |= dict(zip([r.id for r in comparison.anchors], gain.tolist(), strict=True))
            helped += (gain > 0).double()[gain != 0].tolist()
        return RewardResult(values, {"helped": sum(helped) / len(helped)} if helped else {})
