"""How time and memory grow with the work: batch, length, pictures a side, candidates, corpus, processes.

    python benchmarks/scaling.py --out benchmarks/results --plot docs/pictures/scaling.png
    python benchmarks/scaling.py --curves '[batch, length]'
    python benchmarks/scaling.py --size smallest   # seconds

Each point of a curve is measured in a process of its own with one thread: median CPU seconds of a few rounds, and by
how much the process's resident set grows at most. Exponents are slopes of straight lines through the logarithms: 1 is
in proportion to the work, 0 does not grow with it.

- batch: the contrastive step, in pairs; micro-batches of 16 sides.
- length: forward and backward pass of 4 chats of text, in tokens of each.
- pictures: forward and backward pass of 4 chats, in pictures of each (64 tokens a picture).
- candidates: embedding and ranking pictures and texts for 16 queries, as `embedrl eval` does.
- corpus: ranking vectors of 256 numbers on disk for 64 queries, the best 100 of each.
- processes: the contrastive step under DDP, 16 pairs each: seconds of one process, the mean over them.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from socket import socket
from statistics import fmean
from typing import Any, Literal

import numpy as np
import torch
from checkpoints import write
from contrastive_step import Setting
from egrl_step import CPU, Noise
from jsonargparse import auto_cli
from throughput import RAW, make_sides
from timing import OURS, Beside, Row, Seconds, apart, interleaved, peak_mib, quiet_trainer, report, seconds
from topk_million import unit
from topk_million import write as write_vectors

from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.metrics.ranking import rank
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.types import Chat

Curve = Literal["batch", "length", "pictures", "candidates", "corpus", "processes"]
Found = tuple[float, float]  # CPU seconds, MiB
UNITS: dict[str, str] = {
    "batch": "pairs", "length": "tokens a chat", "pictures": "pictures a chat", "candidates": "candidates",
    "corpus": "vectors", "processes": "processes",
}  # fmt: skip
FULL: dict[str, list[int]] = {
    "batch": [16, 32, 64, 128, 256, 512],
    "length": [64, 128, 256, 512, 1024, 2048, 4096],
    "pictures": [1, 2, 4, 8, 16, 32],
    "candidates": [64, 128, 256, 512, 1024],
    "corpus": [10_000, 30_000, 100_000, 300_000],
    "processes": [1, 2],
}
SMALLEST: dict[str, list[int]] = {
    "batch": [2, 4], "length": [16, 32], "pictures": [1, 2], "candidates": [4, 8], "corpus": [100, 200],
    "processes": [1, 2],
}  # fmt: skip
SIDE = 128  # pixels: 64 tokens of the tiny model
PIXELS = PixelBudget(64 * 64, SIDE * SIDE)


def batch(path: Path, work: int, repeats: int) -> Found:
    """The contrastive step of `work` pairs."""
    with tempfile.TemporaryDirectory() as folder:
        return _steps(Setting(path, work, 16), folder, repeats)


def _steps(setting: Setting, folder: str, repeats: int, **options: Any) -> Found:
    """Lightning's step on one batch."""
    clock, collated = Beside({}), setting.collated
    trainer = quiet_trainer(folder, 1 + repeats, clock, **options)
    grown = peak_mib(lambda: trainer.fit(setting.module(), iter(lambda: collated, None)))
    return seconds(clock.seconds[OURS]), grown


def length(path: Path, work: int, repeats: int) -> Found:
    """Both passes of 4 chats of `work` tokens."""
    backbone = _built(path)
    chat: list[Chat] = [_chat([{"type": "text", "text": "red"}])]
    rest = backbone.preprocessor()(chat)["input_ids"].shape[1] - 1
    return _passes(backbone, [_chat([{"type": "text", "text": "red" + " red" * (work - rest - 1)}])] * 4, repeats)


def pictures(path: Path, work: int, repeats: int) -> Found:
    """Both passes of 4 chats of `work` pictures."""
    chats = [
        _chat([{"type": "image", "image": Noise(work * i + j, SIDE).load()} for j in range(work)]) for i in range(4)
    ]
    return _passes(_built(path), chats, repeats)


def _chat(content: list[dict[str, Any]]) -> Chat:
    answer = {"role": "assistant", "content": [{"type": "text", "text": "<emb>"}]}
    return [{"role": "user", "content": content}, answer]


def _built(path: Path) -> QwenVLBackbone:
    backbone = QwenVLBackbone(str(path), image_pixels=PIXELS)
    backbone.build()
    return backbone


def _passes(backbone: QwenVLBackbone, chats: Sequence[Chat], repeats: int) -> Found:
    inputs = backbone.preprocessor()(chats)

    def both() -> None:
        backbone.zero_grad()
        backbone(inputs).square().cumsum(1).sum().backward()

    return _timed(both, repeats)


def _timed(call: Callable[[], object], repeats: int) -> Found:
    found: dict[str, list[Seconds]] = {}
    grown = peak_mib(lambda: found.update(interleaved({OURS: call}, repeats)))
    return seconds(found[OURS]), grown


def candidates(path: Path, work: int, repeats: int) -> Found:
    """Embedding `work` candidates and 16 queries, and ranking."""
    embedder = FrozenEmbedder(QwenVLBackbone(str(path), image_pixels=PIXELS), RAW, shared_prefix=False)
    sides = make_sides(work + 16)
    names = [f"side {i}" for i in range(len(sides))]

    def evaluate() -> None:
        vectors = embedder.embed(sides, names, CPU)
        rank(vectors[:16], vectors[16:], [{i % work: 1.0} for i in range(16)], k=10)

    return _timed(evaluate, repeats)


def corpus(path: Path, work: int, repeats: int) -> Found:
    """Ranking `work` vectors on disk."""
    with tempfile.TemporaryDirectory() as folder:
        stored, asked = write_vectors(Path(folder), work, 256, 8192), unit(64, 256, 0)
        qrels = [{i % work: 1.0} for i in range(64)]
        return _timed(lambda: rank(asked, stored, qrels, k=min(100, work)), repeats)


def processes(path: Path, work: int, repeats: int) -> Found:
    """The contrastive step of `work` processes, 16 pairs each."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ProcessPoolExecutor(work, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(functools.partial(_one_of, path, work, port, repeats), range(work)))
    return fmean(cpu for cpu, _ in found), fmean(mib for _, mib in found)


def _one_of(path: Path, count: int, port: int, repeats: int, number: int) -> Found:
    """What one process does; Lightning learns from the environment which one it is."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    os.environ |= {"NODE_RANK": "0", "LOCAL_RANK": str(number)}
    setting = Setting(path, 16 * count, 16)
    setting.examples = setting.examples[number::count]
    with tempfile.TemporaryDirectory() as folder:
        return _steps(setting, folder, repeats, strategy="ddp", devices=count, use_distributed_sampler=False)


MEASURES: dict[str, Callable[[Path, int, int], Found]] = {
    "batch": batch, "length": length, "pictures": pictures, "candidates": candidates, "corpus": corpus,
    "processes": processes,
}  # fmt: skip


def exponent(work: Sequence[float], values: Sequence[float]) -> float | str:
    """The slope of a straight line through the logarithms; empty where something did not grow at all.

    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    if min(values) <= 0:
        return ""
    return float(np.polyfit(np.log(work), np.log(values), 1)[0])


def fitted(rows: Sequence[Row]) -> list[Row]:
    """A row of exponents for each curve."""
    found: list[Row] = []
    for curve in dict.fromkeys(row["curve"] for row in rows):
        points = [row for row in rows if row["curve"] == curve]
        work, cpu, mib = ([float(str(row[name])) for row in points] for name in ("work", "CPU s", "peak MiB"))
        span = f"{points[0]['work']} to {points[-1]['work']} {points[0]['of']}"
        found.append({"curve": curve, "work": span, "time": exponent(work, cpu), "memory": exponent(work, mib)})
    return found


def draw(rows: Sequence[Row], path: Path) -> None:
    """Time and memory of each curve, relative to its first point, on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    for axes, name, title in zip(figure.subplots(1, 2), ("CPU s", "peak MiB"), ("time", "memory"), strict=True):
        for curve in dict.fromkeys(str(row["curve"]) for row in rows):
            points = [(float(str(r["work"])), float(str(r[name]))) for r in rows if r["curve"] == curve]
            if len(points) > 1 and min(y for _, y in points) > 0:
                axes.loglog(
                    [x / points[0][0] for x, _ in points], [y / points[0][1] for _, y in points], "o-", label=curve
                )
        low, high = axes.get_xlim()
        axes.plot([1, high], [1, high], ":", color="gray", label="in proportion")
        axes.set(title=title, xlabel="work / least work", ylabel=f"{name} / that of the least work", xlim=(low, high))
        axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def main(
    curves: list[Curve] | None = None,
    repeats: int = 3,
    size: Literal["full", "smallest"] = "full",
    plot: Path | None = None,
    out: Path | None = None,
) -> None:
    """Measure, and print both tables as Markdown.

    Args:
        curves: Which; None: all.
        repeats: Rounds.
        size: `smallest` takes one round of two small points, in this process but for the curve of processes.
        plot: The picture's file; None draws none.
        out: Folder for the results; None only prints.
    """
    torch.set_num_threads(1)
    small, rows = size == "smallest", list[Row]()
    repeats = 1 if small else repeats
    with tempfile.TemporaryDirectory() as folder:
        path = write("tiny", Path(folder))
        for curve in curves or list(UNITS):
            for work in (SMALLEST if small else FULL)[curve]:
                here = small or curve == "processes"  # which start processes themselves
                call = MEASURES[curve]
                cpu, mib = call(path, work, repeats) if here else apart(call, path, work, repeats)
                rows.append({"curve": curve, "work": work, "of": UNITS[curve], "CPU s": cpu, "peak MiB": mib})
    report("scaling", rows, out, repeats=repeats)
    report("scaling_exponents", fitted(rows), out, repeats=repeats)
    if plot is not None:
        draw(rows, plot)


if __name__ == "__main__":
    auto_cli(main)
