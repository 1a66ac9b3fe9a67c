"""The service: what its routes do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from embedrl import __version__
from embedrl.errors import DataError, EmbedRLError
from embedrl.service.guard import Guard, Meters
from embedrl.service.lane import BusyError, Lane
from embedrl.service.models import Candidate, ServedModels
from embedrl.service.options import ServiceLimits
from embedrl.service.requests import EmbeddingsBody, RerankBody, SearchBody, as_list, shortened, to_sides, vector_of
from embedrl.service.searching import search
from embedrl.types import Side

PAGE = Path(__file__).parent / "page"


def make_app(
    models: ServedModels,
    limits: ServiceLimits = ServiceLimits(),  # noqa: B008 - frozen
    token: str | None = None,
    hosts: frozenset[str] | None = None,
) -> ASGIApp:
    """The service as an ASGI application.

    Args:
        models: What it computes with.
        limits: Bounds on what requests bring.
        token: What every request must bring; None: nothing.
        hosts: Names under which it may be addressed; None: any.
    """
    lane: Lane[Any, Any] = Lane(models.run, limits.queue, limits.batch)
    meters = Meters(lane)

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        lane.start()
        yield
        await lane.stop()

    app = FastAPI(title="embedrl", version=__version__, lifespan=running, docs_url=None, redoc_url=None)
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    _refusals(app)

    async def compute(kind: str, role: str, work: list[Any]) -> list[Any]:
        """Results of items by the models; the first bad item is the request's error."""
        meters.items.labels(kind).inc(len(work))
        results = await lane.submit((kind, role), work)
        for i, result in enumerate(results):
            if isinstance(result, DataError):
                raise DataError(f"item {i}: {result}" if len(work) > 1 else str(result))
        return results

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether it works."""
        return {"status": "ok", "version": __version__}

    @app.get("/about")
    async def about() -> dict[str, Any]:
        """What is served: rows, columns to filter by, what models there are."""
        facts = await asyncio.to_thread(models.index.stats)
        kept = {name: facts[name] for name in ("rows", "modalities", "with_tcot", "dim", "model", "columns")}
        return kept | {"reasoner": models.index.reasoner is not None, "reranker": models.reranker is not None}

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(generate_latest(meters.registry), media_type=CONTENT_TYPE_LATEST)

    @app.post("/v1/embeddings")
    async def embeddings(body: EmbeddingsBody) -> dict[str, Any]:
        """Vectors of texts and pictures, in OpenAI's form."""
        if body.dimensions not in (None, *models.dims):
            raise DataError(f"dimensions: {body.dimensions}; this model gives {', '.join(map(str, models.dims))}")

        async def work() -> dict[str, Any]:
            sides = await asyncio.to_thread(to_sides, as_list(body.input), limits)
            rows = [shortened(row, body.dimensions) for row in await compute("embed", body.role, sides)]
            data = [
                {"object": "embedding", "index": i, "embedding": vector_of(row, body.encoding_format)}
                for i, row in enumerate(rows)
            ]
            return {"object": "list", "data": data, "model": body.model or "embedrl"}

        return await _in_time(work, limits)

    @app.post("/v1/rerank")
    async def rerank(body: RerankBody) -> dict[str, Any]:
        """Documents in the order in which they answer a query: by the reranker, or else by the Embedder's cosine."""

        async def work() -> dict[str, Any]:
            [query] = await asyncio.to_thread(to_sides, [body.query], limits, "query")
            documents = await asyncio.to_thread(to_sides, body.documents, limits, "documents")
            scores = await _relevance(models, compute, query, documents)
            order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[: body.top_n]
            rows: list[dict[str, Any]] = [{"index": i, "relevance_score": scores[i]} for i in order]
            if body.return_documents:
                rows = [row | {"document": {"text": documents[row["index"]].text}} for row in rows]
            by = "embedder" if models.reranker is None else "reranker"
            return {"model": body.model or "embedrl", "by": by, "results": rows}

        return await _in_time(work, limits)

    @app.post("/search")
    async def find(body: SearchBody) -> dict[str, Any]:
        """The items of the index that are most alike to a query."""
        return await _in_time(lambda: search(models, compute, body, limits), limits)

    return Guard(app, limits, meters, token, hosts)


async def _relevance(
    models: ServedModels, compute: Callable[..., Coroutine[Any, Any, list[Any]]], query: Side, documents: list[Side]
) -> list[float]:
    if models.reranker is not None:
        return await compute("rerank", "", [Candidate(query, document) for document in documents])
    [one] = await compute("embed", "query", [query])
    return [float(one @ row) for row in await compute("embed", "target", documents)]


async def _in_time(work: Callable[[], Coroutine[Any, Any, dict[str, Any]]], limits: ServiceLimits) -> dict[str, Any]:
    async with asyncio.timeout(limits.timeout):
        return await work()


def _refusals(app: FastAPI) -> None:
    """Answer every error in one form, OpenAI's."""

    def answer(status: int, what: str, **headers: str) -> JSONResponse:
        return JSONResponse({"error": {"message": what, "code": status}}, status, headers)

    @app.exception_handler(EmbedRLError)
    async def _bad(_: Request, error: EmbedRLError) -> JSONResponse:
        return answer(400, str(error))

    @app.exception_handler(BusyError)
    async def _busy(_: Request, error: BusyError) -> JSONResponse:
        return answer(429, "too many requests wait; come back in a second", **{"retry-after": "1"})

    @app.exception_handler(TimeoutError)
    async def _late(_: Request, error: TimeoutError) -> JSONResponse:
        return answer(504, "the request took too long and was given up")

    @app.exception_handler(RequestValidationError)
    async def _malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return answer(422, f"{where or 'body'}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, str(error.detail))
