"""Matryoshka: the first numbers of a vector are a shorter vector of their own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from embedrl.errors import ConfigError
from embedrl.losses.contrastive import BatchLabels, ContrastiveLoss, check_single_vectors


class Matryoshka(ContrastiveLoss):
    """A loss on the whole vectors plus the same loss on their first numbers, normalised again.

    The sum is weighted: `loss(whole) + Σ_d weight_d · loss(first d)`. Validation scores every length, and an exported
    folder names them (`matryoshka_dimensions`). Source: Kusupati et al. 2022 (arXiv 2205.13147), Eq. 1.

    Args:
        loss: Any contrastive loss.
        dims: The shorter lengths, such as [64, 128].
        weights: Weight of each length in `dims`; None: all 1.

    Raises:
        ConfigError: If there is no length, one is below 1 or occurs twice, the weights do not fit, or the loss is on
            token vectors.
    """

    def __init__(self, loss: ContrastiveLoss, dims: Sequence[int], weights: Sequence[float] | None = None) -> None:
        check_single_vectors(loss, "Matryoshka")
        if not dims or min(dims) < 1 or len(set(dims)) < len(dims):
            raise ConfigError(f"loss.dims is {list(dims)}: give different lengths of 1 or more, such as [64, 128]")
        if weights is not None and (len(weights) != len(dims) or not all(weight > 0 for weight in weights)):
            raise ConfigError(f"loss.weights is {list(weights)}: give a positive weight for each of dims {list(dims)}")
        self.loss, self.dims, self.weights = loss, list(dims), weights

    def __call__(
        self, queries: Tensor, targets: Tensor, negatives: Tensor, labels: BatchLabels
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `ContrastiveLoss`; the metrics are those of the whole vectors, and `loss_<length>`.

        Raises:
            ConfigError: If a length is not below the vectors' own.
        """
        check_dims(self.dims, queries.shape[1])
        total, metrics = self.loss(queries, targets, negatives, labels)
        metrics = dict(metrics)
        for dim, weight in zip(self.dims, self.weights or [1.0] * len(self.dims), strict=True):
            loss, _ = self.loss(truncate(queries, dim), truncate(targets, dim), truncate(negatives, dim), labels)
            metrics[f"loss_{dim}"] = loss.detach()
            total = total + weight * loss
        return total, metrics


def truncate(vectors: Tensor, dim: int) -> Tensor:
    """The first `dim` numbers of unit vectors, normalised again: `[rows, dim]`."""
    return functional.normalize(vectors[:, :dim], dim=-1)


def check_dims(dims: Sequence[int], whole: int) -> None:
    """Check that lengths are below the length of the whole vectors.

    Raises:
        ConfigError: If one is not.
    """
    long = [dim for dim in dims if dim >= whole]
    if long:
        raise ConfigError(
            f"loss.dims has {long[0]}, but the model's vectors have {whole} numbers: give fewer than that"
        )
