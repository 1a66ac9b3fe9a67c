"""The approximate index of a large table, and how many of the exact neighbours it returns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrl.index.search import NPROBES, REFINE, query
from embedrl.index.store import Store, one_line

ANN_ROWS = 100_000
"""From this many rows on, a table gets an ANN index; below, every search compares with every vector."""

ENOUGH = 0.95
"""The recall@10 below which `embedrl index verify` looks for settings that reach it."""

NAME = "vector_idx"
_THOROUGH = (40, 160)  # `refine` with all lists
_STALE = 0.1  # share of rows that are not in the index yet, at which it is brought up to date


def is_indexed(store: Store) -> bool:
    """Whether a table has an ANN index."""
    return any(one.name == NAME for one in store.table.list_indices())


def build(store: Store) -> None:
    """Build the ANN index: IVF lists around `sqrt(rows)` centres, vectors in them as one bit a number (RaBitQ)."""
    from lancedb.index import IvfRq

    lists = max(round(math.sqrt(store.count())), 1)
    with one_line(store.uri):
        store.table.create_index("vector", config=IvfRq(distance_type="cosine", num_partitions=lists), name=NAME)


def keep_fresh(store: Store, rows: int = ANN_ROWS) -> bool:
    """Build the ANN index if the table has grown large, or add rows to it that are not in it; whether it did either.

    Args:
        store: The table.
        rows: The least number of rows.
    """
    count = store.count()
    if count < rows:
        return False
    if not is_indexed(store):
        build(store)
        return True
    if store.table.index_stats(NAME).num_unindexed_rows > _STALE * count:
        store.optimize(timedelta(hours=1))
        return True
    return False


@dataclass(frozen=True)
class AnnRecall:
    """How many of the exact neighbours the ANN index returns.

    Attributes:
        share: Mean share of them.
        nprobes: See `nearest`.
        refine: See `nearest`.
    """

    share: float
    nprobes: int
    refine: int

    @property
    def flags(self) -> str:
        """What gives a search this recall."""
        return f"--nprobes {self.nprobes} --refine {self.refine}"


def recalls(store: Store, queries: NDArray[np.float32], k: int = 10) -> list[AnnRecall]:
    """The recall of a search as it is by default; while it is below `ENOUGH`, also of ever more thorough ones.

    Vectors that lie in clusters reach it by default. Those without structure have their neighbours in any list, and all
    are about equally far, so that one bit a number does not tell them apart: more lists and more whole vectors do.

    Args:
        store: The table.
        queries: Unit vectors, `[queries, dim]`.
        k: Neighbours of each.
    """
    exact = [_keys(store, vector, k, exact=True) for vector in queries]
    lists = max(round(math.sqrt(store.count())), NPROBES)
    measured = []
    for nprobes, refine in ((NPROBES, REFINE), (min(4 * NPROBES, lists), REFINE), *((lists, one) for one in _THOROUGH)):
        close = [_keys(store, vector, k, nprobes=nprobes, refine=refine) for vector in queries]
        shares = [len(best & some) / max(len(best), 1) for best, some in zip(exact, close, strict=True)]
        measured.append(AnnRecall(float(np.mean(shares)), nprobes, refine))
        if measured[-1].share >= ENOUGH:
            break
    return measured


def _keys(store: Store, vector: NDArray[np.float32], k: int, **options: Any) -> set[str]:
    return {row["key"] for row in query(store, vector, k, ["key"], **options)}
