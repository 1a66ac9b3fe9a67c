"""Rows of pairs in every format, from the file to the chat that a model reads."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from PIL import Image

from embedrl.construction.checks import Checks
from embedrl.construction.figures import Figures
from embedrl.construction.filter import CHECKS
from embedrl.construction.judgement import question, verdict_key
from embedrl.construction.pictures import PictureCheck
from embedrl.construction.rows import PairWriter
from embedrl.data.arrow_pairs import RecordTable
from embedrl.data.formats import JsonlSource, LlavaHoundSource, MMEBSource
from embedrl.data.opened import open_pairs
from embedrl.data.render import RenderOptions, render
from embedrl.errors import EmbedRLError
from embedrl.tcot.chat import reasoning_chat
from embedrl.tcot.store import content_hash
from embedrl.types import Modality, Pair, Role, Side
from fuzzing.mutate import Draw, json_bytes, mutated

TCOT = '<thinking>a dot {{"{0}": {1}}}</thinking><rethink>dot</rethink><answer>red</answer>'
TEXT_TCOT = TCOT.format("text_keywords", '["dot"]')
IMAGE_TCOT = TCOT.format("bbox_2d", "[[100, 100, 400, 400]]")
VIDEO_TCOT = TCOT.format("key_frames", "[1]")

_MMEB = {
    "qry": "<|image_1|>\nWhat is it?", "qry_image_path": "a.png", "pos_text": "thing", "pos_image_path": "",
    "neg_text": "a rock", "neg_image_path": "a.png", "query_cot": IMAGE_TCOT, "pos_cot": TEXT_TCOT,
}  # fmt: skip
_TALK = [{"from": "human", "value": "<video>\nwhat happens?"}, {"from": "gpt", "value": "an event"}]
_HOUND = {
    "dataset_name": "llavahound_qa", "qry": {"conversations": _TALK, "video": ["film/1.png", "film/2.png"]},
    "pos": {"conversations": _TALK, "video": "film"}, "query_cot": VIDEO_TCOT, "pos_cot": TEXT_TCOT,
}  # fmt: skip
_OWN = {
    "id": "p", "query": {"text": "page", "images": ["a.png"], "tcot": IMAGE_TCOT},
    "target": {"frames": ["film"], "fps": 2.0, "tcot": VIDEO_TCOT, "text": "a film"}, "negatives": [{"text": "other"}],
}  # fmt: skip
FORMATS: dict[str, tuple[type[RecordTable], Any]] = {
    "mmeb": (MMEBSource, _MMEB),
    "hound": (LlavaHoundSource, _HOUND),
    "own": (JsonlSource, _OWN),
}


def rows(data: Draw, folder: Path) -> None:
    """A file of two rows, one of them mutated, read and used as construction and training use it."""
    name = data.draw(st.sampled_from([*FORMATS]), label="format")
    kind, row = FORMATS[name]
    lines = name == "own" or data.draw(st.booleans(), label="lines")
    write_pictures(folder)
    (folder / "rows.json").write_bytes(json_bytes(data, [row, mutated(data, row)], lines))
    source = kind(str(folder / "rows.json"), str(folder), cache_dir=str(folder / "cache"))
    writer = PairWriter(folder / "out", "rows", source, 1.0)
    figures, checks, pictures = Figures("rows", len(source)), Checks(CHECKS), PictureCheck(decode=True)
    for index in range(len(source)):
        with passing():
            pair = source[index]
            figures.add(pair)
            pictures(pair)
            for use in (checks, writer.write, use_pair):
                with passing():
                    use(pair)
    if row := writer.close():  # what a step of construction writes, the next one reads
        again = JsonlSource(**row["source"]["init_args"], cache_dir=str(folder / "cache"))
        for index in range(len(again)):
            again[index]


def use_pair(pair: Pair) -> None:
    """What training and construction do with a pair."""
    question(pair)
    verdict_key(pair, "model")
    open_pairs([pair])
    for role, side in zip(Role, (pair.query, pair.target), strict=True):
        use_side(side, role)


def use_side(side: Side, role: Role = Role.QUERY) -> None:
    """What the models and the caches do with a side."""
    assert isinstance(side.key, str)
    content_hash(side)
    reasoning_chat(side, role, Modality.TEXT)
    for tcot in ("full", "answer_only", "none"):
        with passing():
            render(side, RenderOptions(tcot=tcot), where="rows/x")  # type: ignore[arg-type]
    render(side, RenderOptions(on_bad_tcot="lenient", jitter=60, replace_evidence=0.5), random.Random(0))


def write_pictures(folder: Path) -> None:
    """A picture and a film of two frames."""
    (folder / "film").mkdir()
    for name in ("a.png", "film/1.png", "film/2.png"):
        Image.new("RGB", (40, 30), "red").save(folder / name)


@contextmanager
def passing() -> Iterator[None]:
    """Go on after an error that a user gets in one line."""
    with suppress(EmbedRLError):
        yield
