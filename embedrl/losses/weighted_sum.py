"""Several losses on the same batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from embedrl.errors import ConfigError
from embedrl.losses.contrastive import BatchLabels, ContrastiveLoss


class WeightedSum(ContrastiveLoss):
    """`Σ weight · loss`, such as InfoNCE and distillation from a reranker.

    Args:
        losses: The losses.
        weights: Weight of each.

    Raises:
        ConfigError: If there is no loss, the weights do not fit, or some losses are on token vectors and others not.
    """

    def __init__(self, losses: list[ContrastiveLoss], weights: Sequence[float]) -> None:
        if not losses or len(weights) != len(losses) or not all(weight > 0 for weight in weights):
            raise ConfigError(
                f"loss.weights is {list(weights)}: give a positive weight for each of {len(losses)} losses"
            )
        if len({loss.multi_vector for loss in losses}) > 1:
            kinds = ", ".join(type(loss).__name__ for loss in losses)
            raise ConfigError(f"loss.losses are {kinds}: some compare one vector a token, others one a side")
        self.multi_vector = losses[0].multi_vector
        self.losses, self.weights = losses, list(weights)
        self.dims = sorted({dim for loss in losses for dim in loss.dims})

    def __call__(
        self, queries: Tensor, targets: Tensor, negatives: Tensor, labels: BatchLabels
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `ContrastiveLoss`; each loss is logged as `loss_<its class>`, its metrics by their own names."""
        total = queries.new_zeros(())
        metrics: dict[str, Tensor] = {}
        for loss, weight in zip(self.losses, self.weights, strict=True):
            value, own = loss(queries, targets, negatives, labels)
            total = total + weight * value
            metrics = {**own, **metrics, f"loss_{type(loss).__name__}": value.detach()}
        return total, metrics
