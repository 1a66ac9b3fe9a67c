"""What an index of a hundred million or a billion pictures takes: actors, hours, storage, cost, with the arithmetic.

    python benchmarks/scale.py                                                  # the tables of docs/scale.md
    python benchmarks/scale.py --given.utilisation 0.5 --given.actors 256          # with figures of your own
    python benchmarks/scale.py --measured_in pictures/ --out benchmarks/results # bytes a row and seconds a write, here

Operations are counted as `embedrl plan` counts them: Qwen3-VL-2B reads a picture at its largest size, without and with
a T-CoT and its crops; Qwen3-VL-8B reads the picture and writes the T-CoT. The shares of a GPU's peak that this becomes
(`--given.utilisation`, `--given.writing`), prices and actors are assumptions. Bytes of a row and seconds of a write are
measured by `--measured_in` on the machine at hand.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
from jsonargparse import auto_cli
from timing import Row, markdown, report

from embedrl import Embedder, Index
from embedrl.commands.plan import read
from embedrl.index.store import Store
from embedrl.planning.build import build_on_meta
from embedrl.planning.flops import Flops
from embedrl.planning.rows import Assumptions, Sides

CONFIGS = Path(__file__).parents[1] / "configs"


@dataclass(frozen=True)
class Operations:
    """Operations of one picture, in 10^12.

    Attributes:
        bare: Embedding it.
        with_tcot: Embedding it with a T-CoT and its crops.
        reading: Reading it, to write a T-CoT.
        writing: Writing the T-CoT.
        dim: Length of a vector.
    """

    bare: float
    with_tcot: float
    reading: float
    writing: float
    dim: int


def count(assume: Assumptions) -> Operations:
    """Count the operations on the models' shapes; no weights are needed.

    Args:
        assume: Tokens and pictures.
    """
    module, _ = read(["--config", str(CONFIGS / "embedder/qwen3_vl_2b.yaml")])
    model, _ = build_on_meta(module.trained_model, None)
    sides, flops = Sides(model, 2, assume), Flops.of(model, 2)
    bare = flops.forward([(sides.words() + sides.picture(), 1)])
    full = flops.forward([(sides.words(assume.tcot) + sides.picture() + sides.crops(), 1)])
    dim = int(model.network.get_output_embeddings().in_features)
    module, _ = read(["--config", str(CONFIGS / "reasoner/qwen3_vl_8b.yaml")])
    model, _ = build_on_meta(module.trained_model, None)
    sides, flops = Sides(model, 2, assume), Flops.of(model, 2)
    prompt = sides.words(assume.instruction) + sides.picture()
    reading, writing = flops.forward([(prompt, 1)]), flops.written(prompt.length, assume.tcot)
    return Operations(bare / 1e12, full / 1e12, reading / 1e12, writing / 1e12, dim)


def row_bytes(dim: int, other: float) -> float:
    """Bytes of a row: its vector, what was measured beside it, its share of the ANN index (one bit a number, an id).

    Args:
        dim: Length of the vector.
        other: Bytes beside it.
    """
    return 4 * dim + other + dim / 8 + 8


def measure(pictures: Path, embedder: str, largest: int) -> list[Row]:
    """Build an index of a folder of pictures, and write to tables of two sizes.

    Args:
        pictures: The folder.
        embedder: The model; only the speed depends on it, and the length of its vectors is taken off.
        largest: Rows of the larger table.
    """
    with tempfile.TemporaryDirectory() as place:
        model = Embedder.from_pretrained(embedder, device="cpu")
        index = Index.create(Path(place, "x.lance"), model)
        used = time.process_time()
        done = index.add(pictures, progress=False)
        used = time.process_time() - used
        index.compact()
        data = sum(file.stat().st_size for file in Path(place).rglob("data/*.lance"))
        indices = sum(file.stat().st_size for file in Path(place).rglob("_indices/**/*") if file.is_file())
        newest = index.store.count()
        rows: list[Row] = [
            {"measured": "pictures in the index", "value": newest, "unit": "rows"},
            {
                "measured": f"embedding with {embedder}, a CPU",
                "value": round(done.embedded / used, 1),
                "unit": "items / s",
            },
            {"measured": "row without its vector", "value": round(data / newest - 4 * model.dim), "unit": "bytes"},
            {"measured": "indices of keys and words", "value": round(indices / newest), "unit": "bytes / row"},
        ]
    return [*rows, *writes(largest)]


def writes(largest: int, commit: int = 1024) -> list[Row]:
    """CPU seconds of a commit: for each of its rows, and for each key that is in the table before it.

    Args:
        largest: Rows of the larger table; the smaller one has a tenth.
        commit: Rows of a commit.
    """
    row = commit_seconds(2048, [0], commit)[0] / commit
    sizes = [largest // 10, largest]
    small, large = commit_seconds(8, sizes, commit)
    return [
        {"measured": "writing a row, one writer", "value": round(row * 1e6, 1), "unit": "CPU µs"},
        {"measured": f"a commit after {sizes[0]:,} rows", "value": round(small * 1e3, 1), "unit": "CPU ms"},
        {"measured": f"a commit after {sizes[1]:,} rows", "value": round(large * 1e3, 1), "unit": "CPU ms"},
        {
            "measured": "comparing with a key",
            "value": round((large - small) / (sizes[1] - sizes[0]) * 1e9, 1),
            "unit": "CPU ns",
        },
    ]


def commit_seconds(dim: int, sizes: Sequence[int], commit: int) -> list[float]:
    """Median CPU seconds of a commit to a table of each size.

    Args:
        dim: Length of a vector.
        sizes: Rows in the table before, rising.
        commit: Rows of a commit.
    """
    rng = np.random.default_rng(0)

    def rows(schema: pa.Schema, count: int, first: int, thumbnail: bytes | None = None) -> pa.Table:
        vectors = rng.standard_normal(count * dim, np.float32)
        given = {
            "key": pa.array([hashlib.sha256(str(first + i).encode()).hexdigest()[:32] for i in range(count)]),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors), dim),
            "thumbnail": pa.array([thumbnail] * count, pa.binary()),
        }
        columns = [given.get(field.name, pa.nulls(count, field.type)) for field in schema]
        return pa.Table.from_arrays(columns, schema=schema)

    seconds = []
    with tempfile.TemporaryDirectory() as place:
        store = Store.create(str(Path(place, "x.lance")), dim, {"format": 1})
        there = 0
        for size in sizes:
            while there < size:
                part = min(100_000, size - there)
                store.table.add(rows(store.schema, part, there))
                there += part
            times = []
            for _ in range(5):
                batch = rows(store.schema, commit, there, rng.bytes(8000))
                used = time.process_time()
                store.insert(lambda _, batch=batch: batch)
                times.append(time.process_time() - used)
                there += commit
            seconds.append(median(times))
    return seconds


@dataclass(frozen=True)
class Inputs:
    """What the table is worked out from.

    Attributes:
        items: Numbers of pictures.
        actors: GPUs at work.
        peak: Of a GPU, in TFLOP/s.
        utilisation: Share of it while a model reads. An assumption.
        writing: Share of it while the Reasoner writes. An assumption.
        gpu_hour: Price of a GPU for an hour. An assumption.
        month: Price of 10^9 bytes of storage for a month. An assumption.
        beside: Bytes of a row beside its vector and the ANN index; measured.
        commit: Rows of a commit.
        parts: Indexes that the pictures may be split into, each with a writer of its own.
        row: Seconds to write a row; measured.
        key: Seconds for each key of the table, in every commit; measured.
    """

    items: tuple[int, ...] = (100_000_000, 1_000_000_000)
    actors: int = 64
    peak: float = 989.0
    utilisation: float = 0.35
    writing: float = 0.1
    gpu_hour: float = 2.5
    month: float = 0.023
    beside: float = 12_850.0
    commit: int = 65_536
    parts: int = 10
    row: float = 72e-6
    key: float = 270e-9


def embedded(operations: Operations, given: Inputs) -> list[Row]:
    """GPU time and its cost.

    Args:
        operations: Of one picture.
        given: Rates and prices.
    """
    reading = given.peak * given.utilisation
    seconds = {
        "embedded": operations.bare / reading,
        "T-CoT written": operations.reading / reading + operations.writing / (given.peak * given.writing),
        "embedded with T-CoT": operations.with_tcot / reading,
    }
    rows: list[Row] = []
    for number in given.items:
        for what, each in seconds.items():
            hours = number * each / 3600
            rows.append(
                {
                    "items": f"{number:,}", "each is": what, "GPU seconds each": f"{each:.4f}",
                    "GPU hours": f"{hours:,.0f}", f"hours on {given.actors}": f"{hours / given.actors:,.0f}",
                    "items a second": f"{given.actors / each:,.0f}", "cost": f"{hours * given.gpu_hour:,.0f}",
                }
            )  # fmt: skip
    return rows


def write_hours(items: float, given: Inputs) -> float:
    """CPU hours of the one writer: each row is written, and each commit compares its keys with all before it.

    Args:
        items: Rows in the end.
        given: Rates.
    """
    return (items * given.row + items**2 / (2 * given.commit) * given.key) / 3600


def stored(operations: Operations, given: Inputs) -> list[Row]:
    """Storage, and the work of the one writer.

    Args:
        operations: Of one picture.
        given: Rates and prices.
    """
    size = row_bytes(operations.dim, given.beside)
    return [
        {
            "items": f"{number:,}", "bytes a row": f"{size:,.0f}", "TB": f"{number * size / 1e12:,.2f}",
            "cost a month": f"{number * size / 1e9 * given.month:,.0f}",
            "commits": f"{math.ceil(number / given.commit):,}", "GB a commit": f"{given.commit * size / 1e9:.1f}",
            "writer's CPU hours": f"{write_hours(number, given):,.1f}",
            f"of each of {given.parts}": f"{write_hours(number / given.parts, given):,.1f}",
        }
        for number in given.items
    ]  # fmt: skip


def main(
    given: Inputs = Inputs(),
    assume: Assumptions = Assumptions(),  # noqa: B008 - frozen
    measured_in: Path | None = None,
    embedder: str = "embedrl:world_base",
    largest: int = 1_000_000,
    out: Path | None = None,
) -> None:
    """Work out the tables, or measure what they need.

    Args:
        given: Rates and prices.
        assume: Tokens and pictures, as for `embedrl plan`.
        measured_in: Measure instead, on this folder of pictures.
        embedder: The model to measure with.
        largest: Rows of the table that writing is measured on.
        out: Folder for what is measured, as JSON and Markdown; None only prints.
    """
    if measured_in is not None:
        report(
            "scale_measured",
            measure(measured_in, embedder, largest),
            out,
            "lancedb",
            embedder=embedder,
            largest=largest,
        )
        return
    operations = count(assume)
    print(operations)
    for rows in (embedded(operations, given), stored(operations, given)):
        print(f"\n{markdown(rows)}")


if __name__ == "__main__":
    auto_cli(main)
