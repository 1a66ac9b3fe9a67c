"""Exact top-k over a corpus that does not fit into memory: time, and memory that it adds; beside plain torch and faiss.

    python benchmarks/topk_million.py --out benchmarks/results            # 1,000,000 x 2,048: 8 GB on disk
    python benchmarks/topk_million.py --rows 20000 --dim 256 --queries 64 --peers true   # in memory too

Writes random unit vectors as shards of safetensors, as an evaluation does, and ranks them as it does
(`embedrl.metrics.rank`). `--peers` also runs `torch.topk` over all scores and, if it is installed, faiss' IndexFlatIP,
in the same process, on vectors in memory; the indices must be the same.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from jsonargparse import auto_cli
from safetensors.torch import save_file
from timing import peak_mib, report
from torch import Tensor

from embedrl.evaluation.shards import CHECKSUM, checksum, read_shard
from embedrl.metrics.ranking import Blocks, rank


def unit(rows: int, dim: int, seed: int) -> Tensor:
    """Random unit vectors."""
    return torch.nn.functional.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def write(folder: Path, rows: int, dim: int, shard: int) -> Blocks:
    """Random unit vectors in files, as the cache of an evaluation keeps them."""
    sizes = [min(shard, rows - start) for start in range(0, rows, shard)]
    for i, size in enumerate(sizes):
        vectors = unit(size, dim, i + 1)
        save_file({"vectors": vectors}, folder / f"{i}.safetensors", {CHECKSUM: checksum(vectors)})
    return Blocks(rows, lambda: (read_shard(folder / f"{i}.safetensors", size) for i, size in enumerate(sizes)))


def seconds(call: Callable[[], Tensor]) -> tuple[float, float, Tensor]:
    """How long a call takes by the clock, its CPU seconds, and what it returns."""
    started, used = time.perf_counter(), time.process_time()
    found = call()
    return time.perf_counter() - started, time.process_time() - used, found


def main(
    rows: int = 1_000_000,
    dim: int = 2048,
    queries: int = 64,
    k: int = 100,
    shard: int = 8192,
    folder: Path | None = None,
    peers: bool = False,
    threads: int = 1,
    out: Path | None = None,
) -> None:
    """Rank, and print one line of JSON.

    Args:
        rows: Candidates.
        dim: Length of a vector.
        queries: Queries.
        k: Candidates to keep.
        shard: Vectors in a file.
        folder: Where the files go for the time being; None takes a temporary folder.
        peers: Also run torch.topk and faiss in memory, and compare.
        threads: Threads of torch and faiss.
        out: Folder for the result as JSON and Markdown; None only prints.
    """
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        wrote, corpus = time.perf_counter(), write(Path(place), rows, dim, shard)
        wrote = time.perf_counter() - wrote
        asked = unit(queries, dim, 0)
        qrels = [{i % rows: 1.0} for i in range(queries)]
        runs: list[tuple[float, float, Tensor]] = []
        grown = peak_mib(lambda: runs.append(seconds(lambda: rank(asked, corpus, qrels, k=k).indices)))
        took, used, found = runs[0]
        result: dict[str, float | int] = {
            "rows": rows, "dim": dim, "queries": queries, "k": k, "threads": threads,
            "corpus_mib": round(rows * dim * 4 / 2**20), "write_s": round(wrote, 1), "rank_s": round(took, 2),
            "rank_cpu_s": round(used, 2), "grown_mib": round(grown),
        }  # fmt: skip
        if peers:
            result |= beside(asked, torch.cat(list(corpus.read())), k, took, found)
    if out is not None:
        report("topk_million", [dict(result)], out, shard=shard)
    print(json.dumps(result))


def beside(asked: Tensor, everything: Tensor, k: int, took: float, found: Tensor) -> dict[str, float]:
    """Seconds of the others, and ours as a multiple; all must find the same (random scores hardly tie).

    Raises:
        AssertionError: If more than one in a thousand places differs: float32 orders close scores as it likes.
    """
    calls: dict[str, Callable[[], Tensor]] = {"torch_topk": lambda: (asked @ everything.T).topk(k).indices}
    try:
        import faiss
    except ImportError:
        print("faiss is not installed (pip install faiss-cpu): left out")
    else:
        faiss.omp_set_num_threads(torch.get_num_threads())
        index = faiss.IndexFlatIP(everything.shape[1])
        index.add(everything.numpy())
        calls["faiss"] = lambda: torch.from_numpy(index.search(asked.numpy(), k)[1])
    out = {}
    for name, call in calls.items():
        out[f"{name}_s"], _, theirs = seconds(call)
        out[f"ours_over_{name}"] = round(took / out[f"{name}_s"], 2)
        same = (theirs == found).double().mean().item()
        assert same > 0.999, f"{name} agrees on {same:.4f} of the places"
    return {name: round(value, 2) for name, value in out.items()}


if __name__ == "__main__":
    auto_cli(main)
