"""InfoNCE on the MaxSim scores of Embedders that give one vector a token."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from embedrl.errors import ConfigError
from embedrl.losses.contrastive import BatchLabels, ContrastiveLoss, known_pairs, similarity_metrics
from embedrl.losses.maxsim import maxsim, token_mask


class MaxSimInfoNCE(ContrastiveLoss):
    """InfoNCE over MaxSim scores, from queries to targets: `-log softmax(s(q_i, ·) / τ)_i`, meaned over pairs.

    `s(q, d)` is the mean over the query's tokens of the highest dot product with a token of `d`. The candidates of a
    query are all targets of the batch and all hard negatives.

    Source: ColBERT (arXiv 2004.12832), Eq. 3; ColPali (arXiv 2407.01449), and its code's in-batch loss `ColbertLoss`
    with its defaults (temperature 0.02, scores divided by the query's length).

    Args:
        temperature: τ.
        mask_duplicates: Leave out candidates that are known positives of the query, by content.
        normalize: Divide scores by the number of the query's tokens; false: ColBERT's sum, for which a temperature of 1
            is usual.

    Raises:
        ConfigError: If `temperature` is not positive.
    """

    multi_vector = True

    def __init__(self, temperature: float = 0.02, mask_duplicates: bool = True, normalize: bool = True) -> None:
        if not temperature > 0:
            raise ConfigError(f"loss.temperature is {temperature}: give a positive number, such as 0.02")
        self.temperature, self.mask_duplicates, self.normalize = temperature, mask_duplicates, normalize

    def __call__(
        self, queries: Tensor, targets: Tensor, negatives: Tensor, labels: BatchLabels
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `ContrastiveLoss`; sides are token vectors, `[sides, tokens, dim]`, padded with zeros."""
        scores = torch.cat([maxsim(queries, targets), maxsim(queries, negatives)], dim=1)
        known = known_pairs(labels) if self.mask_duplicates else torch.zeros_like(scores, dtype=torch.bool)
        known.fill_diagonal_(False)
        logits = scores if self.normalize else scores * token_mask(queries).sum(1, keepdim=True)
        logits = (logits / self.temperature).masked_fill(known, -torch.inf)
        loss = functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
        return loss, similarity_metrics(scores.detach(), known)
