"""Rows that are nearest to a vector: exactly, through the ANN index, or with full text."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrl.errors import ConfigError, NonFiniteError
from embedrl.index.columns import LIGHT, OWN
from embedrl.index.filters import check_filter
from embedrl.index.hits import Hit
from embedrl.index.rows import restored_item
from embedrl.index.store import Store, one_line
from embedrl.types import Modality

NPROBES = 64
"""Lists of the ANN index that a search looks through, of about the square root of the number of rows."""

REFINE = 10
"""A search through the ANN index reads this many times `k` whole vectors and ranks by them."""

_DEPTH = 50  # least number of rows that each ranking of a hybrid search brings


def nearest(
    store: Store, vector: NDArray[np.float32], k: int, where: str | None = None, words: str | None = None,
    exact: bool = False, nprobes: int = NPROBES, refine: int = REFINE,
) -> list[Hit]:  # fmt: skip
    """The best rows of a table.

    Args:
        store: The table.
        vector: The query's unit vector, `[dim]`.
        k: At most this many.
        where: Only rows for which this SQL condition holds.
        words: Rank by these words' full text, too (reciprocal rank fusion); None: by vectors alone.
        exact: Compare with every vector even if there is an ANN index.
        nprobes: Lists of the ANN index that are looked through; more than there are means all.
        refine: This many times `k` whole vectors are read and ranked.

    Raises:
        ConfigError: If `k`, `nprobes` or `refine` is below 1, the vector has another length, or the condition is wrong.
        NonFiniteError: If the vector is NaN or infinite.
    """
    names = [*LIGHT, *(name for name in store.schema.names if name not in OWN)]
    rows = query(store, vector, k, names, where, words, exact, nprobes, refine)
    return [as_hit(row, store.uri) for row in rows]


def query(
    store: Store, vector: NDArray[np.float32], k: int, names: list[str], where: str | None = None,
    words: str | None = None, exact: bool = False, nprobes: int = NPROBES, refine: int = REFINE,
) -> list[dict[str, Any]]:  # fmt: skip
    """The best rows as dicts with `_score`; see `nearest`.

    Args:
        store: The table.
        vector: See `nearest`.
        k: See `nearest`.
        names: The columns to read.
        where: See `nearest`.
        words: See `nearest`.
        exact: See `nearest`.
        nprobes: See `nearest`.
        refine: See `nearest`.
    """
    for flag, value in (("k", k), ("nprobes", nprobes), ("refine", refine)):
        if value < 1:
            raise ConfigError(f"--{flag} {value}: give 1 or more")
    vector = np.ascontiguousarray(vector, np.float32)
    if vector.shape != (store.dim,):
        raise ConfigError(f"a query's vector of shape {list(vector.shape)}: {store.uri} holds vectors of {store.dim}")
    if not np.isfinite(vector).all() or not vector.any():
        raise NonFiniteError("the query's vector is zero, NaN or infinite: nothing is near it")
    with one_line(store.uri, where):
        if words is None:
            search = store.table.search(vector, vector_column_name="vector").distance_type("cosine").limit(k)
        else:
            from lancedb.rerankers import RRFReranker

            fused = store.table.search(query_type="hybrid", vector_column_name="vector", fts_columns=["text", "tcot"])
            search = fused.vector(vector).text(words).distance_type("cosine").limit(max(k, _DEPTH))
            search = search.rerank(RRFReranker())
        search = search.bypass_vector_index() if exact else search.nprobes(nprobes).refine_factor(refine)
        if where is not None:
            search = search.where(check_filter(where), prefilter=True)
        score = "_distance" if words is None else "_relevance_score"
        search = search.select([*names, "_distance"] if words is None else names)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows: list[dict[str, Any]] = search.to_arrow().to_pylist()[:k]
    for row in rows:
        row["_score"] = 1 - row[score] if words is None else row[score]
    return rows


def as_hit(row: Mapping[str, Any], uri: str) -> Hit:
    """A row as a hit."""
    metadata = {name: value for name, value in row.items() if name not in OWN and name[0] != "_" and value is not None}
    return Hit(
        float(row["_score"]), row["key"], restored_item(row, uri), row["path"], Modality(row["modality"]),
        row["tcot"] or "", json.loads(row["evidence"] or "{}"), metadata, row["thumbnail"],
    )  # fmt: skip
