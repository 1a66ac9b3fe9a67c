"""Losses that read graded labels or a teacher's scores: the similarities of each query with its own candidates."""

from __future__ import annotations

from torch import Tensor

from embedrl.errors import DataError
from embedrl.losses.contrastive import BatchLabels

CURE = "give the rows of the mix `score` and `negative_scores` (`embedrl mine` writes them)"


def own_similarities(queries: Tensor, targets: Tensor, negatives: Tensor, labels: BatchLabels) -> tuple[Tensor, Tensor]:
    """Cosines of queries with their targets, `[pairs]`, and of negatives with their pair's query, `[negatives]`."""
    return (queries * targets).sum(1), (queries[labels.owners] * negatives).sum(1)


def check_scored(labels: BatchLabels, loss: str) -> None:
    """Check that some pair of the batch has a score.

    Raises:
        DataError: If none has.
    """
    if labels.scores.isnan().all() and labels.negative_scores.isnan().all():
        raise DataError(f"{loss}: no pair of this batch has a score: {CURE}")
