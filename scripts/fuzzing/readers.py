"""Local copies of benchmarks in the public layouts, with rows that are nearly right."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import reject
from hypothesis import strategies as st
from PIL import Image

from embedrl.evaluation.pages import write_pages
from embedrl.evaluation.readers.read_task import missing_files, read_task
from embedrl.evaluation.results import data_hash
from embedrl.evaluation.table import SetRow, load_table
from embedrl.tcot.store import content_hash
from fuzzing.mutate import TEXTS, Draw, broken, json_bytes, mutated
from fuzzing.rows import passing, use_side

_CLIP = {"output_path": "clips/a.mp4"}
_ROWS: dict[str, Mapping[str, list[Any]]] = {
    "image_rows": {"": [{
        "qry_inst": "<|image_1|> Find", "qry_text": "it", "qry_img_path": "a.png", "tgt_inst": "x",
        "tgt_text": ["thing", "other"], "tgt_img_path": ["a.png", "b.png"],
    }]},
    "video_labels": {"": [{"video_id": "film", "pos_text": "dive", "neg_text": ["dive", "run"]}]},
    "video_options": {"": [{
        "question": "what?", "answer": 1, "option": ["A. one", "B. two"], "video_idx": "film", "video": "film",
        "a0": "x", "a1": "y", "a2": "z", "a3": "v", "a4": "w", "candidates": ["x", "y"], "options": ["A. x", "B. y"],
        "videoID": "film", "video_name": "film",
    }]},
    "video_pool": {"": [{"video": "film", "video_id": "film", "caption": ["a cat"], "id": "film", "sentence": "a cat",
                         "videoID": "film", "enCap": ["a cat"]}]},
    "moment_folders": {"": [{"query": "a cat", "video_path": "x/film.mp4"}]},
    "moment_lists": {"": [{"query": "it", "input_frames": "film.mp4", "positive_frames": [_CLIP],
                           "negative_frames": [{"output_path": "clips/b.mp4"}]}]},
    "beir": {
        "corpus": [{"corpus-id": 1}, {"corpus-id": 2}], "queries": [{"query-id": 1, "query": "a cat"}],
        "qrels": [{"query-id": 1, "corpus-id": 1, "score": 1}],
    },
    "uvrb": {
        "jsonl/corpus": [{"id": "c1", "video": "film.mp4"}, {"id": "c2", "video": "other.mp4"}],
        "jsonl/instances": [{"qid": "q", "pos": ["c1"], "neg": ["c2"], "candidates": ["c1", "c2"]}],
        "jsonl/queries": [{"id": "q", "text": "a cat", "image": "a.png", "video": "film.mp4"}],
    },
}  # fmt: skip
_SETS = {
    kind: [row for name in ("mmeb_v2", "uvrb") for row in load_table(name) if row.reader == kind] for kind in _ROWS
}


def readers(data: Draw, folder: Path) -> None:
    """A data set whose rows, files or folders are nearly right, read as `eval` reads it."""
    kind = data.draw(st.sampled_from([*_ROWS]), label="reader")
    row = data.draw(st.sampled_from(_SETS[kind]), label="set")
    _write(data, folder, row, _ROWS[kind])
    missing_files(row, folder)
    for on_bad in ("raise", "skip"):
        with passing():
            task, _ = read_task(row, folder, on_bad)  # type: ignore[arg-type]
            sides = [*task.queries, *task.candidates]
            for side in sides:
                with passing():
                    use_side(side)
            hashes = [content_hash(side) for side in sides]
            data_hash(task, hashes[: len(task.queries)], hashes[len(task.queries) :])
    if kind == "beir":
        with passing():
            write_pages(folder, [row.name])


def _write(data: Draw, folder: Path, row: SetRow, tables: Mapping[str, list[Any]]) -> None:
    place = folder / row.paths["rows"]
    for name, table in tables.items():
        changed = mutated(data, table)
        path = place / name if name else place
        suffix = path.suffix or data.draw(st.sampled_from([".jsonl", ".parquet"]), label="suffix")
        if not path.suffix:
            path = path / f"test-0{suffix}" if row.reader != "uvrb" else path.with_suffix(".jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_parquet(data, changed) if path.suffix == ".parquet" else json_bytes(data, changed, True))
    films = ["film", "other", "film/query", "film/positive_1", "film/negative_1"]
    films += [f"video_frames/{name}" for name in ("film", "clips_a", "clips_b")]
    for root in _roots(row, folder):
        for film in films:
            (root / film).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(root / film / "frame_1.png")
        for name in ("a.png", "b.png", "1.png", "2.png"):
            Image.new("RGB", (4, 4)).save(root / name)
        if data.draw(st.integers(0, 5), label="litter") == 5:
            name = data.draw(TEXTS, label="file").replace("/", "_").replace("\0", "_").encode("utf-8", "replace")[:99]
            (root / "film" / f"{name.decode('utf-8', 'replace')}.png").write_bytes(b"")


def _roots(row: SetRow, folder: Path) -> list[Path]:
    if row.reader == "uvrb":
        return [folder / row.paths["rows"] / name for name in ("videos_frames", "images")]
    return [folder / path.split("|")[-1].strip() for name, path in row.paths.items() if name != "rows"]


def _parquet(data: Draw, table: Any) -> bytes:
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(pa.Table.from_pylist(table), sink)
    except (pa.ArrowException, TypeError, ValueError, LookupError, OverflowError, AttributeError):
        reject()  # a table cannot hold these values
    content: bytes = sink.getvalue().to_pybytes()
    return broken(data, content) if data.draw(st.booleans(), label="broken") else content
