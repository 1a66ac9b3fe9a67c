"""Embedding pictures and texts of mixed lengths: ours, plain loops, and sentence-transformers' `encode`.

    python benchmarks/throughput.py                   # tiny Qwen3-VL, 256 sides
    python benchmarks/throughput.py --model 130m --sides 48
    python benchmarks/throughput.py --size smallest   # seconds

From decoded pictures and texts to vectors: a third of the sides are pictures with a text, a third pictures, a third
texts of 4 to 200 words. `one by one` and `as they come` are what an evaluation script with plain transformers does (the
latter padded to the longest of each batch). Ours are micro-batches of like length, as `embedrl eval` makes them. All
take turns in one process; ratios are medians of ours over theirs in CPU seconds. Computed tokens are those that the
language model computes, padding included; one by one, they are the real ones.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from checkpoints import write
from contrastive_step import bare
from egrl_step import CPU, Noise
from jsonargparse import auto_cli
from timing import OURS, Row, interleaved, ratio, report, seconds
from torch import Tensor
from transformers import AutoModel, AutoProcessor
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

from embedrl.data.render import RenderOptions, render
from embedrl.data.world import vocabulary
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.types import Side

RAW = RenderOptions(tcot="none")
ONE_BY_ONE = "transformers, one by one"
PICTURES = (96, 128, 160, 224)
"""Sides of the pictures in pixels."""


def make_sides(count: int, seed: int = 0) -> list[Side]:
    """Sides of all lengths, in no order."""
    rng, words = random.Random(seed), vocabulary.words()

    def text() -> str:
        return " ".join(rng.choices(words, k=int(4 * 50 ** rng.random())))

    sides = []
    for i in range(count):
        images = (Noise(i, rng.choice(PICTURES)),) if i % 3 else ()
        sides.append(Side(text() if i % 3 < 2 else "", images))
    rng.shuffle(sides)
    return sides


class Plain:
    """Plain transformers on the exported folder.

    Args:
        path: The folder.
        sides: What to embed.
    """

    def __init__(self, path: Path, sides: Sequence[Side]) -> None:
        self.processor = AutoProcessor.from_pretrained(path)
        self.model = AutoModel.from_pretrained(path).eval()
        self.sides = sides

    @torch.no_grad()
    def embed(self, size: int) -> Tensor:
        """Vectors, `size` sides at once in the order in which they come."""
        found = []
        for start in range(0, len(self.sides), size):
            chats = [bare(render(side, RAW)) for side in self.sides[start : start + size]]
            inputs: Any = self.processor.apply_chat_template(
                chats, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"padding": True}
            )
            hidden = self.model(**inputs).last_hidden_state
            rows, columns = (inputs["input_ids"] == self.model.config.emb_token_ids[0]).nonzero(as_tuple=True)
            found.append(hidden[rows, columns])
        return torch.nn.functional.normalize(torch.cat(found), dim=-1)


def calls_of(path: Path, sides: Sequence[Side], batch: int, pixels: PixelBudget) -> dict[str, Callable[[], Tensor]]:
    """What there is to compare, by name; the budget of pixels goes into the folder, for all of them."""
    from sentence_transformers import SentenceTransformer

    backbone = QwenVLBackbone(str(path), image_pixels=pixels)
    backbone.build()
    backbone.processor.save_pretrained(path)  # the budget; the closed chat template of the export is kept
    ours = FrozenEmbedder(backbone, RAW, micro_batch_size=batch, shared_prefix=False)  # no two sides begin alike
    plain, peer = Plain(path, sides), SentenceTransformer(str(path), device="cpu")
    names = [f"side {i}" for i in range(len(sides))]

    def encode(size: int) -> Tensor:
        chats = [bare(render(side, RAW)) for side in sides]
        found: Tensor = peer.encode(chats, batch_size=size, convert_to_tensor=True, show_progress_bar=False)
        return found

    return {
        OURS: lambda: ours.embed(sides, names, CPU),
        ONE_BY_ONE: lambda: plain.embed(1),
        f"transformers, {batch} as they come": lambda: plain.embed(batch),
        "transformers, 32 as they come": lambda: plain.embed(32),
        f"sentence-transformers, {batch} at once": lambda: encode(batch),
        "sentence-transformers, 32 at once (its default)": lambda: encode(32),
    }


def computed_tokens(call: Callable[[], object]) -> int:
    """Tokens that a call lets the first layers of language models compute, padding included."""
    shapes: list[int] = []
    forward = Qwen3VLTextModel.forward

    def counting(self: Any, *args: Any, **options: Any) -> Any:
        shapes.append(options["inputs_embeds"].shape[:2].numel())
        return forward(self, *args, **options)

    Qwen3VLTextModel.forward = counting
    try:
        call()
    finally:
        Qwen3VLTextModel.forward = forward
    return sum(shapes)


def measure(path: Path, count: int, batch: int, repeats: int, pixels: PixelBudget) -> list[Row]:
    """A row for each."""
    calls = calls_of(path, make_sides(count), batch, pixels)
    vectors: dict[str, Tensor] = {}

    def keeping(name: str) -> Callable[[], None]:
        def call() -> None:
            vectors[name] = calls[name]()

        return call

    found = interleaved({name: keeping(name) for name in calls}, repeats)
    computed = {name: computed_tokens(calls[name]) for name in calls}
    return [
        {
            "embedding": name,
            "sides / CPU s": count / seconds(values),
            "ours / it": ratio(found[OURS], values) if name != OURS else "",
            "times faster": 1 / ratio(found[OURS], values) if name != OURS else "",
            "computed / real tokens": computed[name] / computed[ONE_BY_ONE],
            "vectors off by": float((vectors[name] - vectors[OURS]).abs().max()) if name != OURS else "",
        }
        for name, values in found.items()
    ]


def main(
    model: Literal["tiny", "130m"] = "tiny",
    sides: int = 256,
    batch: int = 8,
    pixels: int = 128 * 128,
    repeats: int = 7,
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
    with tempfile.TemporaryDirectory() as folder:
        path = write(model, Path(folder))
        rows = measure(path, sides, batch, repeats, PixelBudget(64 * 64, pixels))
    title = "throughput" if model == "tiny" else f"throughput_{model}"
    asked = {"model": model, "sides": sides, "batch": batch, "pixels": pixels, "repeats": repeats}
    report(title, rows, out, "sentence-transformers", **asked)


if __name__ == "__main__":
    auto_cli(main)
