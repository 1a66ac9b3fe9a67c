"""Quantisation-aware training: the loss is also computed on the vectors as an index would store them."""

from __future__ import annotations

import torch
from torch import Tensor

from embedrl.errors import ConfigError
from embedrl.losses.contrastive import BatchLabels, ContrastiveLoss, check_single_vectors
from embedrl.losses.storage import Bounds, Precision, stored


class QuantizationAware(ContrastiveLoss):
    """A loss plus the same loss on quantised vectors, whose gradient passes straight through the rounding.

    The vectors are stored as `embedrl eval --vectors` does it: of int8 the steps are learned with the vectors, from the
    bounds of the batch's targets and negatives, which stand for the corpus.

    Source: the straight-through estimator (arXiv 1308.3432); Qwen3-VL-Embedding (arXiv 2601.04720) trains so, with
    steps that are parameters.

    Args:
        loss: Any contrastive loss.
        precision: `int8` (256 steps between the bounds of each number) or `binary` (its sign).
        weight: Weight of the loss on quantised vectors.

    Raises:
        ConfigError: If the weight is not positive, or the loss is one on token vectors.
    """

    def __init__(self, loss: ContrastiveLoss, precision: Precision, weight: float = 1.0) -> None:
        check_single_vectors(loss, "QuantizationAware")
        if not weight > 0:
            raise ConfigError(f"loss.weight is {weight}: give a positive number")
        self.loss, self.precision, self.weight = loss, precision, weight
        self.dims = loss.dims

    def __call__(
        self, queries: Tensor, targets: Tensor, negatives: Tensor, labels: BatchLabels
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `ContrastiveLoss`; the metrics are those of the exact vectors, and `loss_<precision>`."""
        exact, metrics = self.loss(queries, targets, negatives, labels)
        bounds = Bounds.of(torch.cat([targets, negatives]).detach())
        kept = [self._stored(side, bounds) for side in (queries, targets, negatives)]
        rounded, _ = self.loss(kept[0], kept[1], kept[2], labels)
        return exact + self.weight * rounded, {**metrics, f"loss_{self.precision}": rounded.detach()}

    def _stored(self, vectors: Tensor, bounds: Bounds) -> Tensor:
        return vectors + (stored(vectors.detach(), self.precision, bounds) - vectors).detach()
