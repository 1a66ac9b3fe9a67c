"""Quantisation-aware training: the loss is also computed on the vectors as an index would store them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from embedrl.errors import ConfigError
from embedrl.losses.contrastive import BatchLabels, ContrastiveLoss, check_single_vectors

Precision = Literal["int8", "binary"]


class QuantizationAware(ContrastiveLoss):
    """A loss plus the same loss on quantised vectors, whose gradient passes straight through the rounding.

    Source: the straight-through estimator (arXiv 1308.3432); Qwen3-VL-Embedding (arXiv 2601.04720) trains so, with a
    learned step size where ours is the largest number of each vector.

    Args:
        loss: Any contrastive loss.
        precision: `int8` or `binary`, see `quantize`.
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
        precision = self.precision
        rounded, _ = self.loss(
            _straight_through(queries, precision),
            _straight_through(targets, precision),
            _straight_through(negatives, precision),
            labels,
        )
        return exact + self.weight * rounded, {**metrics, f"loss_{self.precision}": rounded.detach()}


def quantize(vectors: Tensor, precision: Precision) -> Tensor:
    """Unit vectors as an index that stores them in fewer bits compares them, normalised again, `[rows, dim]`.

    Args:
        vectors: Unit vectors, `[rows, dim]`.
        precision: `int8` rounds to 255 levels between the largest number of a vector and its opposite; `binary` keeps
            the signs.
    """
    if precision == "binary":
        return functional.normalize(torch.where(vectors >= 0, 1.0, -1.0).to(vectors.dtype), dim=-1)
    step = vectors.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
    return functional.normalize((vectors / step).round(), dim=-1)


def _straight_through(vectors: Tensor, precision: Precision) -> Tensor:
    return vectors + (quantize(vectors.detach(), precision) - vectors).detach()
