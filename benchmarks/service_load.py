"""Load on `embedrl serve`: requests a second, waiting times and lost requests at several concurrencies.

A service of the built-in world's base model in a process of its own answers `POST /search` with a text each, from
1, 8 and 64 clients that ask again as soon as they have their answer. Nothing else should run beside it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Literal

import numpy as np
from jsonargparse import auto_cli
from timing import Row, report

SIZES = {"full": (200, 400), "smallest": (12, 24)}
"""Pictures in the index, and requests at each concurrency."""

CONCURRENCY = (1, 8, 64)


def build(folder: Path, rows: int) -> str:
    """An index of pictures of the world."""
    import embedrl
    from embedrl.data.world import WorldSource
    from embedrl.index import Index

    source = WorldSource("t2i", size=rows)
    items = []
    for i in range(rows):
        path = folder / f"{i}.png"
        source[i].target.images[0].load().save(path)
        items.append({"image": str(path)})
    index = Index.create(folder / "index.lance", embedrl.Embedder.from_pretrained("embedrl:world_base"))
    index.add(items, on_bad="raise")
    return str(folder / "index.lance")


def start(index: str, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A service of an index, and its address."""
    words = ["serve", index, "--port", "0", "--embedder", "embedrl:world_base", "--device", "cpu"]
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "embedrl", *words], stdout=file, stderr=subprocess.STDOUT)
    for _ in range(3000):
        match = re.search(r"at (http://\S+);", log.read_text())
        if match is not None:
            try:
                urllib.request.urlopen(f"{match[1]}/health", timeout=10).close()
                return process, match[1]
            except OSError:
                pass
        if process.poll() is not None:
            raise SystemExit(log.read_text())
        time.sleep(0.1)
    raise SystemExit("the service did not start")


def load(url: str, clients: int, requests: int) -> Row:
    """Figures of one concurrency."""
    numbers = iter(range(requests))
    lock, seconds, codes = threading.Lock(), [], []

    def client() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            body = json.dumps({"text": f"find the picture : a red star {number} .", "k": 10}).encode()
            request = urllib.request.Request(f"{url}/search", body, {"content-type": "application/json"})
            started = time.perf_counter()
            try:
                with urllib.request.urlopen(request, timeout=120) as answer:
                    code, hits = answer.status, len(json.load(answer)["hits"])
                    code = code if hits == 10 else -1
            except urllib.error.HTTPError as error:
                code = error.code
            except OSError:
                code = 0
            with lock:
                seconds.append(time.perf_counter() - started)
                codes.append(code)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - started
    p50, p99 = np.percentile(np.array(seconds) * 1000, [50, 99])
    return {
        "clients": clients, "requests / s": requests / taken, "p50 ms": float(p50), "p99 ms": float(p99),
        "answered": codes.count(200), "429": codes.count(429), "lost": requests - codes.count(200) - codes.count(429),
    }  # fmt: skip


def main(size: Literal["full", "smallest"] = "full", out: Path | None = None) -> None:
    """Ask at each concurrency, and print a table.

    Args:
        size: `smallest` takes seconds.
        out: Folder for the result as JSON and Markdown; None only prints.

    Raises:
        SystemExit: If a request was lost, or the service did not end as it should.
    """
    items, requests = SIZES[size]
    with tempfile.TemporaryDirectory() as folder:
        index = build(Path(folder), items)
        process, url = start(index, Path(folder) / "log.txt")
        try:
            load(url, 4, 16)  # warm
            rows = [load(url, clients, requests) for clients in CONCURRENCY]
        finally:
            process.terminate()
            code = process.wait(60)
    report("service_load", rows, out, "fastapi", "uvicorn", "lancedb", items=items, requests=requests)
    if any(row["lost"] for row in rows) or code != 143:
        raise SystemExit(f"requests were lost, or the service ended with {code}")


if __name__ == "__main__":
    auto_cli(main)
