"""The parts of a unified model's loss: contrastive on either vector, cross-entropy on the reasoning of either side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from embedrl.errors import ConfigError
from embedrl.losses.contrastive import BatchLabels, ContrastiveLoss, check_single_vectors

VECTORS = ("disc", "gen")
KINDS = ("query", "target", "negative")


@dataclass(frozen=True)
class UnifiedBatch:
    """What a unified model made of a batch, gathered over all ranks.

    Attributes:
        vectors: Unit vectors of all sides by name (`disc`, `gen`), `[sides, dim]`.
        nll: Summed negative log-likelihood of each side's reasoning, in nats, `[sides]`.
        tokens: Number of tokens that it is summed over, `[sides]`.
        kind: Whether a side is a query (0), a target (1) or a hard negative (2), `[sides]`.
        labels: What is known of every side.
    """

    vectors: dict[str, Tensor]
    nll: Tensor
    tokens: Tensor
    kind: Tensor
    labels: BatchLabels


class UnifiedLoss(ABC):
    """The contract of a part of the loss; keep every argument of `__init__` as an attribute of the same name."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name in the log: `train/loss_<name>`."""

    @abstractmethod
    def __call__(self, batch: UnifiedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute it for the whole batch.

        Args:
            batch: The batch of all ranks.

        Returns:
            The loss, a scalar, and metrics to log as `train/<name>`.
        """


class VectorLoss(UnifiedLoss):
    """A contrastive loss on one of the two vectors, such as InfoNCE at scale 50. Source: UME-R1 (arXiv 2511.00405).

    Args:
        vector: `disc`, or `gen`, which reads the reasoning.
        loss: The loss on it.

    Raises:
        ConfigError: If there is no such vector, or the loss is on token vectors.
    """

    def __init__(self, vector: Literal["disc", "gen"], loss: ContrastiveLoss) -> None:
        if vector not in VECTORS:
            raise ConfigError(f"losses.vector is {vector!r}: give disc or gen")
        check_single_vectors(loss, "VectorLoss")
        self.vector, self.loss = vector, loss

    @property
    def name(self) -> str:
        """The vector's name."""
        return self.vector

    def __call__(self, batch: UnifiedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """See `UnifiedLoss`; metrics are named after the vector, such as `gen/hit@1`."""
        vectors = batch.vectors[self.vector]
        queries, targets, negatives = (vectors[batch.kind == kind] for kind in range(3))
        value, metrics = self.loss(queries, targets, negatives, batch.labels)
        return value, {f"{self.vector}/{name}": metric for name, metric in metrics.items()}


class ReasoningLoss(UnifiedLoss):
    """Mean cross-entropy over the tokens of the reasoning of all queries, or of all targets.

    Args:
        role: `query` or `target`. Hard negatives are read, never written.

    Raises:
        ConfigError: If there is no such role.

    >>> batch = UnifiedBatch({}, torch.tensor([6.0, 9.0]), torch.tensor([2.0, 4.0]), torch.tensor([0, 1]), None)
    >>> ReasoningLoss("query")(batch)[0]
    tensor(3.)
    """

    def __init__(self, role: Literal["query", "target"]) -> None:
        if role not in KINDS[:2]:
            raise ConfigError(f"losses.role is {role!r}: give query or target")
        self.role = role

    @property
    def name(self) -> str:
        """`reasoning_` and the role."""
        return f"reasoning_{self.role}"

    def __call__(self, batch: UnifiedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """See `UnifiedLoss`; 0 if no side of this role has a reasoning."""
        mine = batch.kind == KINDS.index(self.role)
        tokens = batch.tokens[mine].sum()
        return batch.nll[mine].sum() / tokens.clamp(min=1), {f"tokens_{self.role}": tokens.detach()}


@dataclass
class LossRow:
    """One part of the loss.

    Attributes:
        loss: The part.
        weight: What it counts in the sum; above 0. To leave a part out, delete its row.
    """

    loss: UnifiedLoss
    weight: float = 1.0


def check_losses(rows: Sequence[LossRow], vectors: Sequence[str]) -> None:
    """Check the parts of a loss against a model.

    Args:
        rows: The parts.
        vectors: The names of the vectors that the model has.

    Raises:
        ConfigError: If there is none, two are the same, a weight is not above 0, or the model lacks a vector.
    """
    names = [row.loss.name for row in rows]
    if not names:
        raise ConfigError("model.losses is empty: give at least one row {loss, weight}")
    for name, row in zip(names, rows, strict=True):
        if names.count(name) > 1:
            raise ConfigError(f"model.losses: two parts are named {name!r}; put contrastive losses into a WeightedSum")
        if not 0 < row.weight < float("inf"):
            raise ConfigError(
                f"model.losses: weight {row.weight} of {name}: give a number above 0; to leave it out, delete it"
            )
        if isinstance(row.loss, VectorLoss) and row.loss.vector not in vectors:
            raise ConfigError(
                f"model.losses: a loss on the vector {row.loss.vector}, which the model does not have: set "
                f"backbone.layout.{row.loss.vector}: true"
            )


def total_loss(rows: Sequence[LossRow], batch: UnifiedBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """`Σ weight · part`, and the metrics of all parts, each part as `loss_<name>`."""
    total = torch.zeros((), device=batch.nll.device)
    metrics: dict[str, Tensor] = {}
    for row in rows:
        value, own = row.loss(batch)
        total = total + row.weight * value
        metrics |= {f"loss_{row.loss.name}": value.detach()} | own
    return total, metrics
