"""An index of a million vectors: time to build, size on disk, queries a second, recall@10; beside faiss' HNSW.

    python benchmarks/index_million.py --out benchmarks/results       # 1,000,000 x 1,024
    python benchmarks/index_million.py --rows 100000                  # a tenth
    python benchmarks/index_million.py --kind random                  # vectors without clusters: the worst case
    python benchmarks/index_million.py --size smallest                # seconds

The vectors are drawn as embeddings lie: around 1,000 centres (Gaussian, of lengths around 1) whose sizes fall with the
root of their rank, each with noise in 64 shared directions of falling weight (0.3 / sqrt(i)), and noise of length 0.2
in all directions; then made unit vectors (`--kind random`: independent directions instead). Queries are drawn alike and
are not in the index. The vectors are drawn in blocks and again for each use, so that one copy at most is in memory;
`build s` of a table and of HNSW includes that. The table is embedrl's own, with its columns and its search
(`embedrl.index`); rows are written as an add writes them. faiss-cpu's HNSW (32 links, efConstruction 100, efSearch 128)
holds the same vectors in memory. Queries come one at a time. Recall is measured against all cosines, computed with
torch. `peak MiB` is the most that the process had in memory until then.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import faiss
import numpy as np
import pyarrow as pa
import torch
from jsonargparse import auto_cli
from numpy.typing import NDArray
from timing import Row, report

from embedrl.index import ann
from embedrl.index.columns import own_fields
from embedrl.index.search import NPROBES, REFINE, query
from embedrl.index.store import Store

Array = NDArray[np.float32]
Kind = Literal["clusters", "random"]
BLOCK = 8192
CENTRES, DIRECTIONS = 1000, 64
LINKS, CONSTRUCTION, SEARCH = 32, 100, 128
SIZES = {"full": (1_000_000, 1024, 500), "smallest": (3000, 128, 20)}
"""Rows, length of a vector, queries."""


def blocks(count: int, dim: int, seed: int, kind: Kind) -> Iterator[Array]:
    """Unit vectors, block by block; the same ones each time."""
    for number, start in enumerate(range(0, count, BLOCK)):
        yield draw(min(BLOCK, count - start), dim, (seed, number), kind)


def draw(count: int, dim: int, seed: tuple[int, int], kind: Kind) -> Array:
    """Unit vectors, in clusters or in independent directions; see above."""
    if kind == "random":
        vectors = np.random.default_rng(seed).standard_normal((count, dim), np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    shape = np.random.default_rng(0)
    centres = shape.normal(size=(CENTRES, dim)) / dim**0.5
    directions = shape.normal(size=(DIRECTIONS, dim)) / dim**0.5 * 0.3 / np.sqrt(np.arange(1, DIRECTIONS + 1))[:, None]
    weights = 1 / np.sqrt(np.arange(1, CENTRES + 1))
    rng = np.random.default_rng(seed)
    vectors = centres[rng.choice(CENTRES, count, p=weights / weights.sum())].astype(np.float32)
    vectors += (rng.normal(size=(count, DIRECTIONS)) @ directions).astype(np.float32)
    vectors += 0.2 / dim**0.5 * rng.standard_normal((count, dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def write(store: Store, drawn: Iterator[Array]) -> None:
    """The vectors as rows."""
    start = 0
    for block in drawn:
        count = len(block)
        columns = {
            "key": pa.array([f"{i:032x}" for i in range(start, start + count)]),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), block.shape[1]),
            "text": pa.array([f"item {i}" for i in range(start, start + count)]),
        }
        arrays = [columns.get(field.name, pa.nulls(count, field.type)) for field in own_fields(block.shape[1])]
        table = pa.Table.from_arrays(arrays, schema=store.schema)
        store.insert(lambda _, table=table: table)  # type: ignore[misc]
        start += count


def truth(queries: Array, drawn: Iterator[Array], k: int = 10) -> Array:
    """Rows of the nearest, `[queries, k]`."""
    scores, rows, start = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.long), 0
    for block in drawn:
        near = torch.from_numpy(queries) @ torch.from_numpy(block).T
        best = near.topk(min(k, len(block)))
        scores, rows = torch.cat([scores, best.values], 1), torch.cat([rows, best.indices + start], 1)
        kept = scores.topk(min(k, scores.shape[1]))
        scores, rows = kept.values, rows.gather(1, kept.indices)
        start += len(block)
    return rows.numpy()


def measured(search: Callable[[Array], list[int]], queries: Array, nearest: Array) -> tuple[float, float]:
    """Queries a second, one at a time, and recall@10."""
    search(queries[0])
    started = time.perf_counter()
    replies = [search(vector) for vector in queries]
    took = time.perf_counter() - started
    shares = [len({*reply} & {*best.tolist()}) / len(best) for reply, best in zip(replies, nearest, strict=True)]
    return len(queries) / took, float(np.mean(shares))


def main(
    size: Literal["full", "smallest"] = "full",
    rows: int | None = None,
    kind: Kind = "clusters",
    folder: Path | None = None,
    out: Path | None = None,
) -> None:
    """Build both, ask both, and print a table.

    Args:
        size: `smallest` takes seconds.
        rows: Another number of rows.
        kind: How the vectors lie.
        folder: Where the index goes for the time being; None takes a temporary folder.
        out: Folder for the result as JSON and Markdown; None only prints.
    """
    count, dim, asked = SIZES[size]
    count = rows or count
    queries = draw(asked, dim, (2, 0), kind)
    nearest = truth(queries, blocks(count, dim, 1, kind))
    with tempfile.TemporaryDirectory(dir=folder) as place:
        table: list[Row] = []
        started = time.perf_counter()
        store = Store.create(f"{place}/million.lance", dim, {})
        write(store, blocks(count, dim, 1, kind))
        wrote = time.perf_counter() - started

        def ask(vector: Array, exact: bool) -> list[int]:
            return [int(row["key"], 16) for row in query(store, vector, 10, ["key"], exact=exact)]

        few = min(asked, 20)  # a scan of everything takes its time
        speed, recall = measured(lambda vector: ask(vector, exact=True), queries[:few], nearest[:few])
        table.append(_row("embedrl, exact", wrote, _size(Path(place)), speed, recall))
        started = time.perf_counter()
        ann.build(store)
        built = time.perf_counter() - started
        speed, recall = measured(lambda vector: ask(vector, exact=False), queries, nearest)
        table.append(_row("embedrl, ANN index", built, _size(Path(place)), speed, recall))
    started = time.perf_counter()
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    hnsw = faiss.IndexHNSWFlat(dim, LINKS, faiss.METRIC_INNER_PRODUCT)
    hnsw.hnsw.efConstruction, hnsw.hnsw.efSearch = CONSTRUCTION, SEARCH
    for block in blocks(count, dim, 1, kind):
        hnsw.add(block)
    built = time.perf_counter() - started
    faiss.omp_set_num_threads(1)
    speed, recall = measured(lambda vector: hnsw.search(vector[None], 10)[1][0].tolist(), queries, nearest)
    graph = count * dim * 4 + count * LINKS * 2 * 4
    table.append(_row("faiss HNSW, in memory", built, graph, speed, recall))
    report(
        "index_million", table, out, "lancedb", "faiss-cpu",
        vectors=count, kind=kind, dim=dim, queries=asked, probes=NPROBES, refine=REFINE,
    )  # fmt: skip


def _row(name: str, built: float, size: int, speed: float, recall: float) -> Row:
    return {
        "what": name,
        "build s": built,
        "MiB": round(size / 2**20),
        "peak MiB": _peak(),
        "queries / s": speed,
        "recall@10": recall,
    }


def _peak() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    auto_cli(main)
