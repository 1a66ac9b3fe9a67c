"""`POST /search`: a query with its T-CoT and drawn evidence, and the items that are most alike to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from embedrl.api.thought import Thought
from embedrl.errors import ConfigError, DataError
from embedrl.index.hits import Hit
from embedrl.index.reranking import read_hits, reorder_hits
from embedrl.service.models import Candidate, ServedModels, as_data_url
from embedrl.service.options import ServiceLimits
from embedrl.service.requests import ItemBody, SearchBody, to_sides
from embedrl.tcot.parser import parse
from embedrl.types import Side
from embedrl.visualization.evidence import draw_panel

Compute = Callable[[str, str, list[Any]], Coroutine[Any, Any, list[Any]]]


async def search(models: ServedModels, compute: Compute, body: SearchBody, limits: ServiceLimits) -> dict[str, Any]:
    """The answer to a search.

    Args:
        models: What is searched.
        compute: Runs items through the models.
        body: The request.
        limits: The service's bounds.

    Raises:
        DataError: If the query is empty, broken or too large.
        ConfigError: If a condition is wrong, or there is no Reasoner or reranker for what is asked.
    """
    if body.k > limits.max_k or body.rerank > limits.max_k:
        raise DataError(f"k: at most {limits.max_k} items, reranked or not")
    if body.hybrid and not (body.text or "").strip():
        raise DataError("hybrid: ranks by words; give a text")
    if body.reason and models.index.reasoner is None:
        raise ConfigError("reason: this service has no Reasoner")
    if body.rerank and models.reranker is None:
        raise ConfigError("rerank: this service has no reranker")
    started = time.perf_counter()
    [side] = await asyncio.to_thread(to_sides, [ItemBody(text=body.text, image=body.image)], limits, "query")
    if body.reason:
        [tcot] = await compute("reason", "query", [side])
        side = side.with_tcot(tcot)
    reasoned = time.perf_counter()
    [vector] = await compute("embed", "query", [side])
    words = body.text if body.hybrid else None
    hits = await asyncio.to_thread(models.search, vector, max(body.k, body.rerank), body.where, words)
    if body.rerank:
        hits = await _reranked(compute, side, hits, body.rerank)
    return {
        "query": await asyncio.to_thread(_query, side),
        "hits": [_hit(rank, hit) for rank, hit in enumerate(hits[: body.k], 1)],
        "seconds": {"reason": round(reasoned - started, 4), "all": round(time.perf_counter() - started, 4)},
    }


async def _reranked(compute: Compute, query: Side, hits: list[Hit], depth: int) -> list[Hit]:
    """The hits, the first ones in the reranker's order; their files are opened as the index names them."""

    def read() -> list[Candidate]:
        return [Candidate(query, side) for side in read_hits(hits[:depth])]

    return reorder_hits(hits, await compute("rerank", "", await asyncio.to_thread(read)))


def _query(side: Side) -> dict[str, Any]:
    """The query as a page shows it."""
    if not side.tcot.strip():
        return {"tcot": "", "answer": "", "picture": None}
    thought = Thought(side)
    return {"tcot": side.tcot, "answer": thought.answer, "picture": as_data_url(draw_panel(side, 560, 320))}


def _hit(rank: int, hit: Hit) -> dict[str, Any]:
    answer = parse(hit.tcot, hit.modality).tcot.answer if hit.tcot.strip() else ""
    return {
        "rank": rank,
        "score": hit.score,
        "key": hit.key,
        "path": hit.path,
        "modality": str(hit.modality),
        "text": hit.text,
        "tcot": hit.tcot,
        "answer": answer,
        "evidence": dict(hit.evidence),
        "metadata": {name: _plain(value) for name, value in hit.metadata.items()},
        "thumbnail": as_data_url(None, hit.thumbnail_file),
    }


def _plain(value: Any) -> Any:
    """A value of a column as JSON can hold it."""
    return value if value is None or isinstance(value, str | int | float | bool | list | dict) else str(value)
