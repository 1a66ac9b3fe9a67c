"""The best hits of a search in the order of a reranker, which reads each with the query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from embedrl.api.items import to_side
from embedrl.index.hits import Hit
from embedrl.types import Side

if TYPE_CHECKING:
    from embedrl.inference.reranker import Reranker


def read_hits(hits: Sequence[Hit]) -> list[Side]:
    """Hits as a reranker reads them, with their stored T-CoTs; their files are opened as the index names them.

    Args:
        hits: The hits.
    """
    return [to_side(hit.item).with_tcot(hit.tcot) for hit in hits]


def reorder_hits(hits: Sequence[Hit], scores: Sequence[float]) -> list[Hit]:
    """The hits, the first ones in the order of a reranker's scores; of equal ones the earlier stays ahead.

    Args:
        hits: The hits.
        scores: Scores of the first ones, 0..1.
    """
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return [*(replace(hits[i], reranked=scores[i]) for i in order), *hits[len(scores) :]]


def rerank_hits(reranker: Reranker, query: Side, hits: Sequence[Hit], depth: int) -> list[Hit]:
    """The hits, the best ones in the reranker's order.

    Args:
        reranker: The reranker, built.
        query: The query, with its T-CoT if it has one.
        hits: What the index gives, the best first.
        depth: How many of them to read.

    Raises:
        DataError: If an item cannot be read.
        NonFiniteError: If the reranker gives NaN.
    """
    return reorder_hits(hits, reranker.score(query, read_hits(hits[:depth]), "query").tolist())
