"""Which rollouts are compared: those of one role with those of the other, over the whole step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from embedrl.errors import NonFiniteError, RewardError
from embedrl.rl.types import Rollout, RolloutStep
from embedrl.types import Role

NegativeWeights = Literal["softmax", "uniform"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Anchors against candidates; an anchor without a positive or without a negative is not among them.

    Attributes:
        anchors: The rollouts that are scored: of one role, of this process.
        candidates: All rollouts of the other role.
        similarity: Cosine of anchor and candidate, `[anchors, candidates]`, float64.
        positive: True where both belong to one pair, `[anchors, candidates]`.
        negative: True where the candidate is a wrong answer, `[anchors, candidates]`; neither is a duplicate.
        unjudged: Ids of the anchors that are not among `anchors`: there is nothing to tell them apart from.
    """

    anchors: list[Rollout]
    candidates: list[Rollout]
    similarity: Tensor
    positive: Tensor
    negative: Tensor
    unjudged: list[str]


def compare_roles(step: RolloutStep, role: Role, mask_duplicates: bool) -> Comparison:
    """Set this process's rollouts of a role against all rollouts of the other role.

    Args:
        step: The step.
        role: Role of the anchors.
        mask_duplicates: A pair's target that is also known as an answer to the anchor's query is no negative: the
            content of the anchor's own target, or of another target of the same query. False takes every other pair.

    Raises:
        NonFiniteError: If a vector is NaN or infinite.
        RewardError: If a rollout has no vector.
    """
    anchors = [r for r in step.rollouts if r.role is role and r.id in step.mine]
    candidates = [r for r in step.rollouts if r.role is not role]
    if not anchors or not candidates:
        nothing = torch.zeros(0, len(candidates), dtype=torch.float64)
        return Comparison([], candidates, nothing, nothing.bool(), nothing.bool(), [r.id for r in anchors])
    # float64 is exempt from autocast, and its rounding is far below `TIE`.
    similarity = _vectors(step, anchors) @ _vectors(step, candidates).T
    row, column = (torch.tensor([r.pair for r in side]) for side in (anchors, candidates))
    answers = _answers(step) if mask_duplicates else torch.eye(len(step.pairs), dtype=torch.bool)
    if role is Role.TARGET:
        answers = answers.T
    positive = row[:, None] == column
    negative = ~answers[row][:, column]
    judged = positive.any(1) & negative.any(1)
    kept = judged.nonzero()[:, 0].to(similarity.device)
    return Comparison(
        [r for r, is_judged in zip(anchors, judged.tolist(), strict=True) if is_judged],
        candidates,
        similarity[kept],
        positive[judged].to(similarity.device),
        negative[judged].to(similarity.device),
        [r.id for r, is_judged in zip(anchors, judged.tolist(), strict=True) if not is_judged],
    )


def instead(comparison: Comparison, step: RolloutStep, vectors: Mapping[str, Tensor]) -> Comparison:
    """The same comparison with other vectors of its anchors; the candidates keep theirs.

    Args:
        comparison: The anchors and their candidates.
        step: Their step.
        vectors: Vectors by rollout id, such as those of a variant; of every anchor.
    """
    other = [vectors[anchor.id] for anchor in comparison.anchors]
    candidates = torch.stack([step.vectors[candidate.id] for candidate in comparison.candidates])
    similarity = torch.stack(other).to(comparison.similarity) @ candidates.to(comparison.similarity).T
    return replace(comparison, similarity=similarity)


def margins(comparison: Comparison, temperature: float, weights: NegativeWeights) -> Tensor:
    """`mean_p sim(o, p) - Σ_n w_n sim(o, n)` of each anchor o, `[anchors]`.

    Args:
        comparison: The anchors and their candidates.
        temperature: τ of `w = softmax(sim(o, n) / τ)`.
        weights: `uniform` takes the mean over the negatives instead.
    """
    similarity, positive, negative = comparison.similarity, comparison.positive, comparison.negative
    scale = 1 / temperature if weights == "softmax" else 0.0
    weight = (similarity * scale).masked_fill(~negative, -torch.inf).softmax(1)
    return (similarity * positive).sum(1) / positive.sum(1) - (similarity * weight).sum(1)


def group_similarity(step: RolloutStep, comparison: Comparison) -> Tensor:
    """Cosine sums of the mean vector of each anchor's whole group with the candidates, `[anchors, candidates]`.

    All anchors of a group have the same row, whichever process asks: their candidates' order follows from it.
    """
    rows: dict[str, Tensor] = {}
    candidates = _vectors(step, comparison.candidates)
    for group in dict.fromkeys(anchor.group for anchor in comparison.anchors):
        members = sorted((r for r in step.rollouts if r.group == group), key=lambda rollout: rollout.id)
        rows[group] = candidates @ _vectors(step, members).mean(0)
    return torch.stack([rows[anchor.group] for anchor in comparison.anchors])


def _vectors(step: RolloutStep, rollouts: list[Rollout]) -> Tensor:
    missing = [r.id for r in rollouts if r.id not in step.vectors]
    if missing:
        raise RewardError(
            f"{len(missing)} rollouts have no vector (first: {missing[0]}): the Embedder must embed every rollout "
            "before rewards are computed"
        )
    vectors = torch.stack([step.vectors[r.id].detach() for r in rollouts]).double()
    broken = ~vectors.isfinite().all(1)
    if broken.any():
        first = rollouts[int(broken.nonzero()[0])].id
        raise NonFiniteError(
            f"the vectors of {int(broken.sum())} rollouts are NaN or infinite (first: {first}): look at the Embedder's "
            "checkpoint and precision"
        )
    return vectors


def _answers(step: RolloutStep) -> Tensor:
    """True at `[i, j]` if some pair has the query of pair i and the target of pair j, by content."""
    keys = ([pair.query.key for pair in step.pairs], [pair.target.key for pair in step.pairs])
    same = [torch.tensor([[a == b for b in side] for a in side], dtype=torch.float32) for side in keys]
    return same[0] @ same[1] > 0
