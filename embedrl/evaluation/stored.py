"""What retrieval loses when an index stores the vectors shorter, or in fewer bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from embedrl.errors import ConfigError, listed
from embedrl.losses.matryoshka import truncate
from embedrl.losses.storage import Bounds, bytes_of, stored
from embedrl.metrics.ranking import GRID, PAIRS, Blocks, Ranking, Ties, rank_both
from embedrl.types import RetrievalTask

Vectors = Literal["float32", "int8", "binary"]


@dataclass(frozen=True)
class Storage:
    """How an index keeps the vectors.

    Attributes:
        vectors: `float32`; `int8`, 256 steps between the candidates' bounds of each number; `binary`, the signs.
        dim: Keep the first `dim` numbers, normalised again; None keeps all.
        rescore: Score this many of the best candidates again, with the query as float32; 0 scores with codes alone.
    """

    vectors: Vectors = "float32"
    dim: int | None = None
    rescore: int = 0

    @property
    def exact(self) -> bool:
        """Whether the vectors are kept as they are."""
        return self.vectors == "float32" and self.dim is None

    @property
    def name(self) -> str:
        """Its name in a table, such as `int8, 64 numbers`."""
        length = [] if self.dim is None else [f"{self.dim} numbers"]
        return ", ".join([self.vectors, *length, *([f"best {self.rescore} scored again"] if self.rescore else [])])

    def check(self, needed: int, listed_dims: Sequence[int]) -> None:
        """Check what can be known before vectors are there.

        Args:
            needed: How many of the best candidates the metrics read.
            listed_dims: The shorter lengths that the model was trained for; empty if it names none.

        Raises:
            ConfigError: If an option is out of range, or the length is not among the model's.
        """
        if self.dim is not None and self.dim < 1:
            raise ConfigError(f"--dim is {self.dim}: give a length of 1 or more, or leave it out")
        if self.dim is not None and listed_dims and self.dim not in listed_dims:
            names = listed([str(dim) for dim in listed_dims])
            raise ConfigError(f"--dim {self.dim}: the model was trained for the lengths {names}: give one of these")
        if self.rescore and self.vectors == "float32":
            raise ConfigError(f"--rescore {self.rescore} with --vectors float32: they are exact already; leave it out")
        if self.rescore and self.rescore < needed:
            raise ConfigError(f"--rescore {self.rescore}: the metrics need the best {needed}; give as many, or 0")

    def check_length(self, dimension: int) -> None:
        """Check the length against that of the model's vectors.

        Raises:
            ConfigError: If the vectors are shorter.
        """
        if self.dim is not None and self.dim > dimension:
            raise ConfigError(f"--dim {self.dim}: the model's vectors have {dimension} numbers: give at most that")

    def facts(self, dimension: int) -> dict[str, object]:
        """What the report says about it.

        Args:
            dimension: Length of the model's vectors.
        """
        dim = self.dim or dimension
        sizes = {"bytes": bytes_of(dim, self.vectors), "float32_bytes": bytes_of(dimension, "float32")}
        return {"name": self.name, "vectors": self.vectors, "dim": dim, "rescore": self.rescore, **sizes}


def rank_stored(
    task: RetrievalTask, queries: Blocks, candidates: Blocks, storage: Storage, k: int
) -> tuple[Ranking, Ranking]:
    """Rank a task's candidates as an index with stored vectors would, ties pessimistic and optimistic.

    Queries are stored like candidates, as quantisation-aware training has it. With `rescore`, the best candidates by
    that are then scored by the query's float32 vector and the values that the candidates' codes stand for.

    Args:
        task: The task.
        queries: The query vectors.
        candidates: The candidate vectors, which are read more than once.
        storage: How they are stored.
        k: How many of the best candidates to keep.
    """
    dim = storage.dim
    exact = torch.cat(list(queries.read()))
    exact = exact if dim is None else truncate(exact, dim)

    def shorter() -> Iterator[Tensor]:
        return (block if dim is None else truncate(block, dim) for block in candidates.read())

    precision, coded, kept = storage.vectors, exact, Blocks(candidates.rows, shorter)
    if precision != "float32":
        bounds = _bounds(shorter())
        coded = stored(exact, precision, bounds)
        kept = Blocks(candidates.rows, lambda: (stored(block, precision, bounds) for block in shorter()))
    first = rank_both(coded, kept, task.qrels, task.pools, storage.rescore or k)
    if not storage.rescore:
        return first
    return _rescored(first[0], exact, kept, k, "pessimistic"), _rescored(first[1], exact, kept, k, "optimistic")


def _bounds(blocks: Iterator[Tensor]) -> Bounds:
    """The bounds of all candidates."""
    bounds = Bounds.of(next(blocks))
    for block in blocks:
        bounds = bounds.joined(Bounds.of(block))
    return bounds


def _rescored(ranking: Ranking, queries: Tensor, candidates: Blocks, k: int, ties: Ties) -> Ranking:
    """The ranking with its candidates ordered anew by the queries' float32 vectors, the best k of them."""
    scores = torch.full_like(ranking.scores, -torch.inf)
    left = 0
    for block in candidates.read():
        inside = ((ranking.indices >= left) & (ranking.indices < left + len(block))).nonzero()
        for rows, columns in (part.T for part in torch.split(inside, PAIRS)):
            some = block[ranking.indices[rows, columns] - left].double()
            scores[rows, columns] = ((queries[rows].double() * some).sum(1) / GRID).round() * GRID
        left += len(block)
    by_relevance = ranking.relevance.argsort(dim=1, descending=ties == "optimistic", stable=True)
    order = by_relevance.gather(1, scores.gather(1, by_relevance).argsort(dim=1, descending=True, stable=True))[:, :k]
    return Ranking(
        ranking.indices.gather(1, order),
        scores.gather(1, order),
        ranking.relevance.gather(1, order),
        ranking.ideal[:, :k],
        ranking.num_relevant,
    )
