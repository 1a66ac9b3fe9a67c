"""The approximate index of a large table, and how many of the exact neighbours it returns."""

from __future__ import annotations

import math
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from embedrl.index.search import query
from embedrl.index.store import Store, one_line

ANN_ROWS = 100_000
"""From this many rows on, a table gets an ANN index; below, every search compares with every vector."""

NAME = "vector_idx"
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


def recall(store: Store, queries: NDArray[np.float32], k: int = 10) -> float:
    """Mean share of the `k` exact nearest rows that the ANN index returns.

    Args:
        store: The table.
        queries: Unit vectors, `[queries, dim]`.
        k: Neighbours of each.
    """
    shares = []
    for vector in queries:
        exact, quick = ({row["key"] for row in query(store, vector, k, ["key"], exact=one)} for one in (True, False))
        shares.append(len(exact & quick) / max(len(exact), 1))
    return float(np.mean(shares))
