"""The contract of a contrastive loss, and what it knows of a batch beside the vectors.

A loss sees the vectors of the whole contrastive batch, gathered over all ranks, and nothing of the model: the
`EmbedderModule` gathers, and sends the gradient back. So a loss of your own is one class, exact on any number of ranks
and micro-batches.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from embedrl.errors import ConfigError


@dataclass(frozen=True)
class BatchLabels:
    """What is known of the rows of a batch: their content, whose hard negatives they are, and graded labels.

    Attributes:
        queries: Hash of each query's content, `[pairs]`, int64.
        targets: Hash of each target's content, `[pairs]`, int64.
        negatives: Hash of each hard negative's content, `[negatives]`, int64.
        owners: The pair (by position) that each hard negative belongs to, `[negatives]`, int64.
        scores: Graded label or teacher's score of each pair, `[pairs]`, float64; NaN where the data has none.
        negative_scores: The same of each hard negative with its pair's query, `[negatives]`, float64.
        fingerprints: Of each query, target and hard negative, in this order, which experts its backbone chose for it,
            `[pairs + pairs + negatives, experts]`; None if the backbone has no experts in its layers of text.
        progress: Share of the run's optimizer steps that have been made, 0..1.
    """

    queries: Tensor
    targets: Tensor
    negatives: Tensor
    owners: Tensor
    scores: Tensor
    negative_scores: Tensor
    fingerprints: Tensor | None = None
    progress: float = 0.0


def key_hashes(keys: Sequence[str]) -> Tensor:
    """Content keys as int64 numbers, `[len(keys)]`, equal on every rank and in every run."""
    digests = (hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest() for key in keys)
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests], dtype=torch.long)


def batch_labels(
    query_keys: Sequence[str],
    target_keys: Sequence[str],
    negative_keys: Sequence[str] = (),
    negative_counts: Sequence[int] = (),
    scores: Sequence[float] | None = None,
    negative_scores: Sequence[float] | None = None,
) -> BatchLabels:
    """The labels of a batch on one process.

    Args:
        query_keys: Content key of each query.
        target_keys: Content key of each target.
        negative_keys: Content key of each hard negative, pair after pair.
        negative_counts: Number of hard negatives of each pair; may be left out where there are none.
        scores: See `BatchLabels.scores`; None: the data has none.
        negative_scores: See `BatchLabels.negative_scores`.
    """
    nan = float("nan")
    return BatchLabels(
        key_hashes(query_keys),
        key_hashes(target_keys),
        key_hashes(negative_keys),
        torch.repeat_interleave(torch.tensor(list(negative_counts), dtype=torch.long)),
        torch.tensor([nan] * len(query_keys) if scores is None else list(scores), dtype=torch.float64),
        torch.tensor(
            [nan] * len(negative_keys) if negative_scores is None else list(negative_scores), dtype=torch.float64
        ),
    )


class ContrastiveLoss(ABC):
    """The contract of a loss; subclass it and name the class in the YAML (`loss: {class_path: ..., init_args: ...}`).

    Keep every argument of `__init__` as an attribute of the same name: checkpoints rebuild the loss from them.
    """

    multi_vector: bool = False
    """Whether sides come with one vector a token, `[sides, tokens, dim]`, padded with zeros (`LateInteraction`)."""
    dims: Sequence[int] = ()
    """The shorter vectors that this loss trains, beside the whole ones (Matryoshka); validation scores them too."""

    @abstractmethod
    def __call__(
        self, queries: Tensor, targets: Tensor, negatives: Tensor, labels: BatchLabels
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of a contrastive batch.

        Args:
            queries: Unit vectors, `[pairs, dim]`.
            targets: Unit vectors, `[pairs, dim]`; row i belongs to query i.
            negatives: Unit vectors of the hard negatives of all pairs, `[negatives, dim]`; may have no rows.
            labels: What is known of every row.

        Returns:
            The loss (a scalar: the mean over pairs) and metrics to log as `train/<name>`.
        """


def check_single_vectors(loss: ContrastiveLoss, wrapper: str) -> None:
    """Check that a loss compares one vector a side, as a loss around it does.

    Args:
        loss: The inner loss.
        wrapper: Class of the loss around it.

    Raises:
        ConfigError: If it compares token vectors.
    """
    if loss.multi_vector:
        raise ConfigError(
            f"loss.loss is {type(loss).__name__}, which compares one vector a token: {wrapper} takes losses on one "
            "vector a side"
        )


@torch.no_grad()
def known_pairs(labels: BatchLabels) -> Tensor:
    """Whether a candidate is a known positive of a query, by content, `[pairs, pairs + negatives]`.

    A candidate is one if some pair of the batch has this row's query and this candidate as its target.
    """
    candidates = torch.cat([labels.targets, labels.negatives])
    same_query = (labels.queries[:, None] == labels.queries).float()
    same_target = (labels.targets[:, None] == candidates).float()
    return same_query @ same_target > 0


@torch.no_grad()
def similarity_metrics(similarity: Tensor, masked: Tensor) -> dict[str, Tensor]:
    """In-batch hit@1 (a tie is a miss), mean similarities, and the share of negatives that were masked.

    Args:
        similarity: Of each query with every candidate, its own target on the diagonal, `[pairs, pairs + negatives]`.
        masked: True where a candidate does not count as a negative, same shape.
    """
    positive = similarity.diagonal()
    other = ~masked
    other.fill_diagonal_(False)
    best_other = similarity.masked_fill(~other, -torch.inf).amax(1)
    count = max(similarity.numel() - len(similarity), 1)
    return {
        "hit@1": (positive > best_other).to(similarity.dtype).mean(),
        "similarity_positive": positive.mean(),
        "similarity_negative": (similarity * other).sum() / other.sum().clamp(min=1),
        "masked": masked.sum() / count,
    }
