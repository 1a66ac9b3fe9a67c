"""The sigmoid loss of SigLIP: every pair of a query and a candidate is a yes-or-no question of its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from embedrl.errors import ConfigError
from embedrl.losses.contrastive import BatchLabels, ContrastiveLoss, known_pairs, similarity_metrics


class SigmoidLoss(ContrastiveLoss):
    """The mean over pairs of `Σ_j -log σ(z_ij (scale · s_ij + bias))`, z 1 for the target and -1 for others.

    Hard negatives join the candidates of all queries. Scale and bias are fixed: SigLIP learns them, from these values.
    Source: SigLIP (arXiv 2303.15343), Algorithm 1.

    Args:
        scale: What a cosine is multiplied by.
        bias: What is added: below 0, as most questions' answer is no.
        mask_duplicates: Leave out a candidate with the content of a known positive, as `InfoNCE` does.

    Raises:
        ConfigError: If `scale` is not positive.
    """

    def __init__(self, scale: float = 10.0, bias: float = -10.0, mask_duplicates: bool = True) -> None:
        if not scale > 0:
            raise ConfigError(f"loss.scale is {scale}: give a positive number, such as 10")
        self.scale, self.bias, self.mask_duplicates = scale, bias, mask_duplicates

    def __call__(
        self, queries: Tensor, targets: Tensor, negatives: Tensor, labels: BatchLabels
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `ContrastiveLoss`; the metrics are those of the direction query → target."""
        with torch.autocast(queries.device.type, enabled=False):
            similarity = queries @ torch.cat([targets, negatives]).T
        masked = known_pairs(labels) if self.mask_duplicates else torch.zeros_like(similarity, dtype=torch.bool)
        masked.fill_diagonal_(False)
        sign = torch.full_like(similarity, -1.0).fill_diagonal_(1.0)
        terms = functional.logsigmoid(sign * (self.scale * similarity + self.bias))
        loss = -terms.masked_fill(masked, 0.0).sum() / len(queries)
        return loss, similarity_metrics(similarity.detach(), masked)
