"""InfoNCE with the options of the field: duplicates and false negatives masked, more negatives, hard ones weighted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from embedrl.errors import ConfigError
from embedrl.losses.contrastive import BatchLabels, ContrastiveLoss, known_pairs, similarity_metrics


class InfoNCE(ContrastiveLoss):
    """InfoNCE averaged over both directions (query → target, target → query). Source: Embed-RL §3.1, Eq. 1.

    Every other pair of the batch is a negative; hard negatives join the candidates of all queries.

    Args:
        temperature: τ; 0.02 is a logit scale of 50.
        mask_duplicates: Leave out a candidate with the content of a known positive: of the row's own target, or of
            another target of the same query in the batch. False reproduces the paper, where they are false negatives.
        false_negative_margin: Leave out a negative whose cosine is above the positive's by more than this: it is
            probably a positive that nobody has labelled. Source: Qwen3-VL-Embedding (arXiv 2601.04720), with 0.1.
            None keeps all.
        extra_negatives: More negatives of every row: `query-query`, the other queries of the batch as seen from the
            row's query; `target-target`, the other targets as seen from its target. Source: Qwen3-VL-Embedding.
        hardness: α: a negative's logit grows by α times its cosine (without gradient), so that hard negatives count
            more. Source: LLaVE (arXiv 2503.04812), Eq. 5, with 9.

    Raises:
        ConfigError: If `temperature` is not positive, or another value is out of its range.
    """

    def __init__(
        self,
        temperature: float = 0.02,
        mask_duplicates: bool = True,
        false_negative_margin: float | None = None,
        extra_negatives: Sequence[Literal["query-query", "target-target"]] = (),
        hardness: float = 0.0,
    ) -> None:
        if not temperature > 0:
            raise ConfigError(f"loss.temperature is {temperature}: give a positive number, such as 0.02")
        if false_negative_margin is not None and not false_negative_margin >= 0:
            raise ConfigError(
                f"loss.false_negative_margin is {false_negative_margin}: give 0 or more, such as 0.1, or null"
            )
        if not hardness >= 0:
            raise ConfigError(f"loss.hardness is {hardness}: give 0 (all negatives alike) or more, such as 9")
        self.temperature = temperature
        self.mask_duplicates = mask_duplicates
        self.false_negative_margin = false_negative_margin
        self.extra_negatives = list(extra_negatives)
        self.hardness = hardness

    def __call__(
        self, queries: Tensor, targets: Tensor, negatives: Tensor, labels: BatchLabels
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `ContrastiveLoss`; the metrics are those of the direction query → target."""
        pairs = len(queries)
        with torch.autocast(queries.device.type, enabled=False):
            similarity = queries @ torch.cat([targets, negatives]).T
            extra = self._extra(queries, targets)
        known = self._known(labels)
        extra_masked = self._extra_known(labels, known[:, :pairs])
        known.fill_diagonal_(False)
        logits = similarity / self.temperature
        if self.hardness:
            logits = logits + self.hardness * similarity.detach().clone().fill_diagonal_(0)
        logits = logits.masked_fill(known, -torch.inf)  # a known pair is masked in both directions
        positive = similarity.diagonal()
        there, back = self._above(similarity, positive), self._above(similarity[:, :pairs].T, positive)
        extra_logits = (extra / self.temperature).masked_fill(extra_masked | self._above(extra, positive), -torch.inf)
        loss = (
            self._cross_entropy(logits.masked_fill(there, -torch.inf), extra_logits, labels, True)
            + self._cross_entropy(logits[:, :pairs].T.masked_fill(back, -torch.inf), extra_logits, labels, False)
        ) / 2
        return loss, similarity_metrics(similarity.detach(), known | there)

    def _extra(self, queries: Tensor, targets: Tensor) -> Tensor:
        """Similarities of the extra negatives, `[pairs, 0 | pairs | 2 · pairs]`."""
        sides = {"query-query": queries, "target-target": targets}
        blocks = [sides[name] @ sides[name].T for name in self.extra_negatives]
        return torch.cat(blocks, dim=1) if blocks else queries.new_empty(len(queries), 0)

    @torch.no_grad()
    def _extra_known(self, labels: BatchLabels, known: Tensor) -> Tensor:
        """Which extra negatives are none: a row's own side, and by default those that share a known positive with it.

        Args:
            labels: The labels.
            known: Known positives among the targets, `[pairs, pairs]`, with the diagonal.
        """
        own = torch.eye(len(known), dtype=torch.bool, device=known.device)
        same = {"query-query": labels.queries, "target-target": labels.targets}
        blocks = [own[:, :0]]
        for name in self.extra_negatives:
            duplicates = (same[name][:, None] == same[name]) | known | known.T
            blocks.append(own | duplicates if self.mask_duplicates else own)
        return torch.cat(blocks, dim=1)

    @torch.no_grad()
    def _known(self, labels: BatchLabels) -> Tensor:
        """True where a candidate is a known positive, `[pairs, pairs + negatives]`; only the own one if not masked."""
        if self.mask_duplicates:
            return known_pairs(labels)
        pairs, negatives = len(labels.targets), len(labels.negatives)
        return torch.eye(pairs, pairs + negatives, dtype=torch.bool, device=labels.targets.device)

    @torch.no_grad()
    def _above(self, similarity: Tensor, positive: Tensor) -> Tensor:
        """True where a negative is probably a positive: its similarity is above the row's positive by the margin."""
        if self.false_negative_margin is None:
            return torch.zeros_like(similarity, dtype=torch.bool)
        return similarity > positive[:, None] + self.false_negative_margin

    def _cross_entropy(self, logits: Tensor, extra: Tensor, labels: BatchLabels, forward: bool) -> Tensor:
        """Of the diagonal of `logits` among its row and the row of `extra`, a scalar."""
        if extra.numel():
            logits = torch.cat([logits, extra], dim=1)
        logits = self._weighted(logits, labels, forward)
        return functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))

    def _weighted(self, logits: Tensor, labels: BatchLabels, forward: bool) -> Tensor:
        """The logits with each negative's weight in them; all weigh 1 here.

        Args:
            logits: The positive's on the diagonal, then hard negatives (`forward` alone), then extra ones; -inf where
                one does not count, `[pairs, candidates]`.
            labels: The labels.
            forward: Whether the rows are queries; else they are targets.
        """
        return logits
