"""Where the time of an embedding goes, ours and the others': what a faster library could still save.

    python benchmarks/embedding_profile.py                        # the sides of throughput.py
    python benchmarks/embedding_profile.py --model 130m --sides 48
    python benchmarks/embedding_profile.py --size smallest        # seconds

CPU seconds of one thread, in the vision tower, in the rest of the network, and before and after it: opening pictures,
resizing and cutting them up, making tokens. PyTorch's profiler says in a call of its own how much of the network's time
is matrix products and attention; what is left are activations, norms, rotations, copies and Python. `without padding`
is how many times faster a row would be if it computed no padding in the language model and all else stayed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from checkpoints import write
from jsonargparse import auto_cli
from throughput import ONE_BY_ONE, calls_of, computed_tokens, make_sides
from timing import Row, now, report, since
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from embedrl.models.qwen_vl.preprocess import PixelBudget

OPERATORS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::mkldnn_convolution"),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu", "aten::_softmax"),
}
TOWER, LANGUAGE, PREPARATION = "vision tower", "language model", "preparation"


def places(call: Callable[[], object]) -> dict[str, float]:
    """CPU seconds of a call in the vision tower, in other modules, and outside of them."""
    spent = dict.fromkeys((TOWER, LANGUAGE), 0.0)
    begun: list[tuple[bool, float]] = []

    def enter(module: nn.Module, _: object) -> None:
        begun.append((isinstance(module, Qwen3VLVisionModel), time.process_time()))

    def leave(*_: object) -> None:
        is_tower, start = begun.pop()
        seconds = time.process_time() - start
        if is_tower:
            spent[TOWER] += seconds
        if not begun:
            spent[LANGUAGE] += seconds

    hooks = register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)
    try:
        start = now()
        call()
        total = since(start).cpu
    finally:
        for hook in hooks:
            hook.remove()
    within = spent[LANGUAGE]
    return {**spent, LANGUAGE: within - spent[TOWER], PREPARATION: total - within}


def operators(call: Callable[[], object]) -> dict[str, float]:
    """CPU seconds of a call's matrix products and attention."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        call()
    events = found.key_averages()
    return {kind: sum(e.self_cpu_time_total for e in events if e.key in keys) / 1e6 for kind, keys in OPERATORS.items()}


def measure(calls: dict[str, Callable[[], Any]], repeats: int) -> list[Row]:
    """A row for each call; medians over the rounds, one more of which is for warming up."""
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in calls}
    for _ in range(1 + repeats):
        for name, call in calls.items():
            rounds[name].append(places(call) | operators(call))
    tokens = {name: computed_tokens(call) for name, call in calls.items()}
    rows: list[Row] = []
    for name, found in rounds.items():
        row = {what: median(one[what] for one in found[1:]) for what in found[0]}
        total = sum(row[place] for place in (TOWER, LANGUAGE, PREPARATION))
        padding = 1 - tokens[ONE_BY_ONE] / tokens[name]
        bound = total / (total - row[LANGUAGE] * padding)
        rows.append({"embedding": name, **row, "sum": total, "without padding": bound if padding else ""})
    return rows


def main(
    model: Literal["tiny", "130m"] = "tiny",
    sides: int = 128,
    batch: int = 8,
    pixels: int = 128 * 128,
    repeats: int = 3,
    size: Literal["full", "smallest"] = "full",
    out: Path | None = None,
) -> None:
    """Measure, and print the table as Markdown.

    Args:
        model: Which Qwen3-VL.
        sides: How many to embed.
        batch: Sides that go through the model at once; the others are measured with 32 too.
        pixels: A picture enters with at most this many.
        repeats: Rounds.
        size: `smallest` takes one round of a few sides.
        out: Folder for the results; None only prints.
    """
    torch.set_num_threads(1)
    if size == "smallest":
        sides, batch, repeats = 9, 4, 1
    budget = PixelBudget(64 * 64, pixels)
    with tempfile.TemporaryDirectory() as folder:
        path = write(model, Path(folder))
        rows = measure(calls_of(path, make_sides(sides), batch, budget), repeats)
    title = "embedding_profile" if model == "tiny" else f"embedding_profile_{model}"
    asked = {"model": model, "sides": sides, "batch": batch, "pixels": pixels, "repeats": repeats}
    report(title, rows, out, "sentence-transformers", **asked)


if __name__ == "__main__":
    auto_cli(main)
