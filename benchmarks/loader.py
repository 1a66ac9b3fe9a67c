"""Loading JPEGs from disk: pairs a second with 0 and 2 workers, and whether training waits for them.

    python benchmarks/loader.py                   # writes 10,000 pictures of 256 x 256, a few minutes
    python benchmarks/loader.py --size smallest   # seconds

Every pair has a JPEG and a sentence as query and a sentence as target. The first rows are the data module's own loader
(decoding, resizing, tokenising, sorting, batching) with nothing behind it. The last is a run of the tiny Qwen3-VL
with Lightning: the share of its time in which it waits for a batch, after the first.
"""

from __future__ import annotations

import functools
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from jsonargparse import auto_cli
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from timing import Row, quiet_trainer, report

from embedrl.data.datamodules.embedder import EmbedderDataModule
from embedrl.data.formats import JsonlSource
from embedrl.data.mix import MixRow
from embedrl.data.render import RenderOptions
from embedrl.losses.info_nce import InfoNCE
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.training.embedder import EmbedderModule


def draw(folder: str, numbers: range, side: int) -> None:
    """Write pictures that compress like photographs: smooth, with some noise."""
    for number in numbers:
        rng = np.random.default_rng(number)
        smooth = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((side, side), Image.BICUBIC)
        noise = rng.integers(-12, 13, (side, side, 1))
        Image.fromarray((np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8)).save(
            Path(folder) / f"{number}.jpg", quality=90
        )


def write_pairs(folder: Path, count: int, side: int) -> Path:
    """Write the pictures and the file that names them."""
    step = -(-count // 8)
    parts = [range(start, min(start + step, count)) for start in range(0, count, step)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(draw, [str(folder)] * len(parts), parts, [side] * len(parts)))
    lines = [
        {
            "id": str(i),
            "query": {"text": "find the red star .", "images": [f"{i}.jpg"]},
            "target": {"text": f"a blue circle at top left , number {i} ."},
        }
        for i in range(count)
    ]
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


class Waits(Callback):
    """Takes the time between the end of a step and the begin of the next, and of the steps."""

    def __init__(self) -> None:
        self.waited: list[float] = []
        self.worked: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The batch is there."""
        now = time.perf_counter()
        if batch_idx:
            self.waited.append(now - self._last)
        self._last = now

    def on_train_batch_end(self, *args: Any) -> None:
        """The next one is asked for."""
        now = time.perf_counter()
        self.worked.append(now - self._last)
        self._last = now


def main(
    pictures: int = 10_000,
    side: int = 256,
    batch: int = 32,
    steps: int = 100,
    size: Literal["full", "smallest"] = "full",
    out: Path | None = None,
) -> None:
    """Measure, and print the table as Markdown.

    Args:
        pictures: How many JPEGs.
        side: Their side in pixels.
        batch: Pairs in a batch.
        steps: Training steps of the last row.
        size: `smallest` takes a few pictures and steps.
        out: Folder for the results; None only prints.
    """
    torch.set_num_threads(1)
    if size == "smallest":
        pictures, batch, steps = 16, 4, 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = JsonlSource(str(write_pairs(folder, pictures, side)), str(folder), cache_dir=str(folder / "arrow"))
        make = functools.partial(
            EmbedderDataModule, batch, batch, 2 * batch, [MixRow(source)], render=RenderOptions(tcot="none")
        )
        rows = [throughput(make(num_workers=workers), folder, workers) for workers in (0, 2)]
        rows.append(training(make(num_workers=2), folder, steps))
    report("loader", rows, out, pictures=pictures, side=side, batch=batch)


def build() -> EmbedderModule:
    """The module that the batches are for."""
    optimizer = functools.partial(torch.optim.SGD, lr=0.0)
    return EmbedderModule(QwenVLBackbone("embedrl:tiny"), InfoNCE(), optimizer, schedule="constant", warmup_steps=0)


def throughput(data: EmbedderDataModule, folder: Path, workers: int) -> Row:
    """All pairs once, from the loader alone."""
    trainer, module = quiet_trainer(folder, 1), build()
    trainer.strategy.connect(module)
    data.trainer = module.trainer = trainer
    loader, pairs = data.train_dataloader(), 0
    start = time.perf_counter()
    for found in loader:
        pairs += found.num_pairs
    rate = pairs / (time.perf_counter() - start)
    return {
        "loading": f"{workers} workers, nothing behind",
        "pairs / s": rate,
        "step ms": "",
        "wait ms": "",
        "wait": "",
    }


def training(data: EmbedderDataModule, folder: Path, steps: int) -> Row:
    """A run of the tiny model."""
    waits = Waits()
    start = time.perf_counter()
    quiet_trainer(folder, steps, waits).fit(build(), datamodule=data)
    took = time.perf_counter() - start
    share = sum(waits.waited) / (sum(waits.waited) + sum(waits.worked[1:]))
    return {
        "loading": "2 workers, training the tiny Qwen3-VL",
        "pairs / s": steps * data.batch_size / took,
        "step ms": 1000 * median(waits.worked),
        "wait ms": 1000 * median(waits.waited),
        "wait": f"{share:.1%} of the time",
    }


if __name__ == "__main__":
    auto_cli(main)
