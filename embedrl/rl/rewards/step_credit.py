"""Step credit: which section of the T-CoT brings its side nearer to its partner? Source: MIG (2602.01034)."""

from __future__ import annotations

import torch
from torch import Tensor

from embedrl.data.variants import Variant
from embedrl.errors import ConfigError
from embedrl.rl.rewards.comparison import Comparison, compare_roles
from embedrl.rl.types import RewardResult, RolloutStep
from embedrl.tcot.schema import SECTIONS
from embedrl.types import Role


class StepCreditReward:
    """g_k = max(0, ℓ_k - h_{k-1}),  h_k = max(h_{k-1}, ℓ_k),  h_0 = ℓ_0, for the sections k of a T-CoT.

    ℓ_k = log softmax( s(p) / τ ) of the partner p among it and the wrong pairs, s being the mean cosine with a pair's
    rollouts: how sure the frozen Embedder is of the partner once it has read the T-CoT up to the end of section k
    (`thinking` with its crops, `rethink`, `answer`); ℓ_0 of the side alone. The running maximum h (the watermark) pays
    a gain once: what repeats earns nothing, and neither does a fall that is made good.

    A gain belongs to the tokens of its section. So this reward is no part of the total: the gains of each section are
    normalised within the group and added, times the row's weight, to the advantage of that section's tokens, beside the
    advantage of the total on all of them (`RewardResult.sections`). The Embedder reads all sections in one pass.

    Args:
        temperature: τ; that of the Embedder's own training is a good choice.
        mask_duplicates: As in `OutcomeReward`.

    Raises:
        ConfigError: If the temperature is not above 0.

    Source: Process-Outcome Credit / MIG (2602.01034), whose ℓ_k is the likelihood of the reference answer under the
    policy; here it is the retrieval by the frozen Embedder, and every section has an advantage of its own.

    >>> from embedrl.rl.types import Rollout
    >>> from embedrl.types import Pair, Side
    >>> pairs = [Pair(Side(f"query {i}"), Side(f"target {i}"), "demo", str(i)) for i in range(2)]
    >>> rollouts = [Rollout(i, role, 0, (), (), "") for i in range(2) for role in Role]
    >>> vectors = {r.id: torch.eye(2)[r.pair] for r in rollouts}
    >>> none, right = ({name: torch.tensor(v) for name in vectors} for v in ([0.6, 0.6], [0.8, 0.6]))
    >>> variants = {"none": none, "thinking": right, "rethink": none}
    >>> step = RolloutStep(pairs, rollouts, vectors, {}, frozenset(["0/query/0"]), variants=variants)
    >>> [round(gain, 2) for gain in StepCreditReward(0.5)(step).sections["0/query/0"]]
    [0.18, 0.0, 0.39]
    """

    name = "step_credit"
    compares_pairs = True
    variants: tuple[Variant, ...] = ("none", "thinking", "rethink")

    def __init__(self, temperature: float = 0.05, mask_duplicates: bool = True) -> None:
        if not temperature > 0:
            raise ConfigError(f"step_credit.temperature is {temperature}: give a positive number, such as 0.05")
        self.temperature, self.mask_duplicates = temperature, mask_duplicates

    def __call__(self, step: RolloutStep) -> RewardResult:
        """The gains of the sections of this process's rollouts; a rollout's value is their sum.

        Raises:
            NonFiniteError: If a vector is NaN or infinite.
        """
        sections: dict[str, tuple[float, ...] | None] = {}
        starts: list[float] = []
        for role in Role:
            comparison = compare_roles(step, role, self.mask_duplicates)
            sections |= dict.fromkeys(comparison.unjudged)
            if not comparison.anchors:
                continue
            certainty = [self._certainty(step, comparison, variant) for variant in (*self.variants, None)]
            gains = watermark_gains(torch.stack(certainty, dim=1))
            starts += certainty[0].tolist()
            rows = zip(comparison.anchors, gains.tolist(), strict=True)
            sections |= {anchor.id: tuple(row) for anchor, row in rows}
        there = [row for row in sections.values() if row is not None]
        figures = {}
        if there:
            means = torch.tensor(there, dtype=torch.float64).mean(0).tolist()
            figures = {f"gain_{name}": mean for name, mean in zip(SECTIONS, means, strict=True)}
            figures["start"] = sum(starts) / len(starts)
        values = {name: None if row is None else sum(row) for name, row in sections.items()}
        return RewardResult(values, figures, sections)

    def _certainty(self, step: RolloutStep, comparison: Comparison, variant: Variant | None) -> Tensor:
        """ℓ of each anchor, `[anchors]`, float64."""
        anchors, candidates = comparison.anchors, comparison.candidates
        similarity = comparison.similarity
        if variant is not None:
            own = torch.stack([step.variants[variant][r.id] for r in anchors]).to(similarity)
            similarity = own @ torch.stack([step.vectors[r.id] for r in candidates]).to(similarity).T
        numbers = {pair: i for i, pair in enumerate(dict.fromkeys(r.pair for r in candidates))}
        column = torch.tensor([numbers[r.pair] for r in candidates], device=similarity.device)
        member = torch.nn.functional.one_hot(column, len(numbers)).to(similarity)  # [candidates, pairs]
        mean = similarity @ (member / member.sum(0))
        right, wrong = ((mask.to(member) @ member) > 0 for mask in (comparison.positive, comparison.negative))
        shares = (mean / self.temperature).masked_fill(~(right | wrong), -torch.inf).log_softmax(1)
        return shares[right]


def watermark_gains(certainty: Tensor) -> Tensor:
    """Gains above the running maximum.

    Args:
        certainty: ℓ_0, ℓ_1, ..., ℓ_K, `[rollouts, 1 + K]`.

    Returns:
        g_1, ..., g_K, `[rollouts, K]`, none negative.

    >>> watermark_gains(torch.tensor([[-4.0, -3.0, -3.5, -2.5]]))
    tensor([[1.0000, 0.0000, 0.5000]])
    """
    return certainty.cummax(1).values.diff(dim=1)
