"""CoSENT: the order of graded labels as the order of similarities."""

from __future__ import annotations

import torch
from torch import Tensor

from embedrl.errors import ConfigError
from embedrl.losses.contrastive import BatchLabels, ContrastiveLoss
from embedrl.losses.graded import check_scored, own_similarities


class CoSENT(ContrastiveLoss):
    """`log(1 + Σ exp((s_b - s_a) / τ))` over all a, b of the batch whose label says that a is more alike than b.

    The couples are each pair's query with its target and with its hard negatives, as far as they have scores. Source:
    CoSENT (doi 10.1109/TASLP.2024.3402087); Qwen3-VL-Embedding (arXiv 2601.04720) uses it for graded sets.

    Args:
        temperature: τ.

    Raises:
        ConfigError: If `temperature` is not positive.
    """

    def __init__(self, temperature: float = 0.05) -> None:
        if not temperature > 0:
            raise ConfigError(f"loss.temperature is {temperature}: give a positive number, such as 0.05")
        self.temperature = temperature

    def __call__(
        self, queries: Tensor, targets: Tensor, negatives: Tensor, labels: BatchLabels
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `ContrastiveLoss`; the metric is the share of ordered couples whose similarities have that order.

        Raises:
            DataError: If no couple of the batch has a score.
        """
        check_scored(labels, "CoSENT")
        similarity = torch.cat(own_similarities(queries, targets, negatives, labels))
        scores = torch.cat([labels.scores, labels.negative_scores])
        known = ~scores.isnan()
        similarity, scores = similarity[known], scores[known]
        ordered = scores[:, None] > scores  # [a, b]: a is more alike than b
        gaps = (similarity - similarity[:, None]) / self.temperature  # [a, b]: s_b - s_a
        loss = torch.logsumexp(torch.cat([gaps.new_zeros(1), gaps[ordered]]), dim=0)
        right = (gaps.detach()[ordered] < 0).to(similarity.dtype)
        return loss, {"in_order": right.sum() / ordered.sum().clamp(min=1)}
