"""Writes local copies of benchmark data in the public layouts, a few rows each."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from embedrl.evaluation.table import load_table


def set_row(benchmark, name, **changes):
    """The table's own row of a data set."""
    return replace(next(row for row in load_table(benchmark) if row.name == name), **changes)


def write_picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(path)


def write_frames(folder, count, suffix=".jpg"):
    """`frame_1.jpg` and on: their natural order is not that of the alphabet."""
    for number in range(1, count + 1):
        write_picture(folder / f"frame_{number}{suffix}")


def write_parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


def pool_of(task, query):
    """Names of the candidates a query is ranked against."""
    return [task.candidate_ids[place] for place in task.pools[query]]


def judged(task, query):
    """Relevance by name."""
    return {task.candidate_ids[place]: value for place, value in task.qrels[query].items()}


def frame_numbers(side):
    return [int(Path(frame.name).stem.split("_")[1]) for frame in side.frames]
