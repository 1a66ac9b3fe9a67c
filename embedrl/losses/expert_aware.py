"""InfoNCE in which a negative counts the more, the more it shares the experts of the row that it is a negative of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from embedrl.errors import ConfigError
from embedrl.losses.contrastive import BatchLabels
from embedrl.losses.info_nce import InfoNCE


class ExpertAwareInfoNCE(InfoNCE):
    """InfoNCE with expert-aware negative weights, in two stages; needs a backbone with `lora.experts`.

    In the denominator of row i, negative j weighs w_ij = exp(β cos(f_i, f_j)), scaled to a mean of 1 over the row's
    negatives, without gradient. f is a side's fingerprint: its token router's probabilities at `<emb>`, mean over
    layers. In the first stage β is 0: experts specialise under plain InfoNCE.

    In the spirit of TSEmbed (arXiv 2603.04772), whose formula, stages and code are not public: this is another loss,
    and the paper's figures do not apply to it.

    Args:
        beta: β of the second stage; 0 is InfoNCE throughout.
        first_stage: Share of the run's optimizer steps after which the second stage begins.
        temperature: See `InfoNCE`.
        mask_duplicates: See `InfoNCE`.
        false_negative_margin: See `InfoNCE`.
        extra_negatives: See `InfoNCE`.
        hardness: See `InfoNCE`.

    Raises:
        ConfigError: If a value is out of its range.
    """

    def __init__(
        self,
        beta: float = 1.0,
        first_stage: float = 0.5,
        temperature: float = 0.02,
        mask_duplicates: bool = True,
        false_negative_margin: float | None = None,
        extra_negatives: Sequence[Literal["query-query", "target-target"]] = (),
        hardness: float = 0.0,
    ) -> None:
        super().__init__(temperature, mask_duplicates, false_negative_margin, extra_negatives, hardness)
        if not 0 <= beta < math.inf:
            raise ConfigError(f"loss.beta is {beta}: give 0 (all negatives alike) or more, such as 1")
        if not 0 <= first_stage <= 1:
            raise ConfigError(f"loss.first_stage is {first_stage}: give the share of the steps that it takes, 0 to 1")
        self.beta, self.first_stage = beta, first_stage

    def __call__(
        self, queries: Tensor, targets: Tensor, negatives: Tensor, labels: BatchLabels
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `InfoNCE`; `expert_beta` is the step's β.

        Raises:
            ConfigError: If the backbone gives no fingerprints.
        """
        if labels.fingerprints is None:
            raise ConfigError(
                "model.loss ExpertAwareInfoNCE needs fingerprints, which model.backbone does not give: set "
                "lora.experts, with more than one expert, in the language scope of a vision-language model"
            )
        loss, metrics = super().__call__(queries, targets, negatives, labels)
        return loss, {**metrics, "expert_beta": loss.new_tensor(self._beta(labels))}

    def _beta(self, labels: BatchLabels) -> float:
        return self.beta if labels.progress >= self.first_stage else 0.0

    @torch.no_grad()
    def _weights(self, labels: BatchLabels, forward: bool, counted: Tensor) -> Tensor:
        """Logarithm of each negative's weight, 0 elsewhere, `[pairs, candidates]`."""
        assert labels.fingerprints is not None
        pairs = len(labels.queries)
        prints = functional.normalize(labels.fingerprints.float(), dim=-1)
        queries, targets, negatives = prints[:pairs], prints[pairs : 2 * pairs], prints[2 * pairs :]
        own = {"query-query": queries, "target-target": targets}
        blocks = [queries @ torch.cat([targets, negatives]).T if forward else targets @ queries.T]
        blocks += [own[name] @ own[name].T for name in self.extra_negatives]
        grown = (self._beta(labels) * torch.cat(blocks, dim=1)).masked_fill(~counted, -torch.inf)
        mean = grown.logsumexp(1, keepdim=True) - counted.sum(1, keepdim=True).log()
        return torch.where(counted, grown - mean, 0.0)

    def _weighted(self, logits: Tensor, labels: BatchLabels, forward: bool) -> Tensor:
        """See `InfoNCE`."""
        if self._beta(labels) == 0:
            return logits
        counted = torch.isfinite(logits.detach())
        counted.fill_diagonal_(False)
        return logits + self._weights(labels, forward, counted).to(logits.dtype)
