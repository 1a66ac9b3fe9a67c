"""The image sets of MMEB: rows with a query and its own candidates, the first of which is right."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from embedrl.evaluation.readers.build import TaskBuilder, UnusableError
from embedrl.evaluation.readers.files import Row, joined, picture, read_rows
from embedrl.types import Side

_IMAGE_PLACE = re.compile(r"<\|image_\d+\|>\n?")


def read(build: TaskBuilder, root: Path) -> None:
    """Read rows of `qry_inst`, `qry_text`, `qry_img_path`, `tgt_inst`, `tgt_text[]`, `tgt_img_path[]`.

    The option `candidates` says what a candidate is and how it is named: `text` (the target text), `image` (the
    picture's path), `captioned` (path, ":" and caption without its quotation marks, since one picture may hold several
    targets). `<|image_1|>` marks a picture's place and is dropped.

    Args:
        build: Takes the queries and candidates.
        root: The root of the local copy.

    Raises:
        DataError: As `read_task`.
    """
    for index, row in enumerate(read_rows(root / build.row.paths["rows"])):
        with build.unless_bad(row.where):
            query = _side(root, build, row.text("qry_inst", ""), row.text("qry_text", ""), row.text("qry_img_path", ""))
            pool = _candidates(build, root, row)
            build.query(str(index), query, {pool[0]: 1.0}, pool)


def _candidates(build: TaskBuilder, root: Path, row: Row) -> list[str]:
    """Name and add the candidates of a row."""
    texts = row.texts("tgt_text")
    kind = build.row.options["candidates"]
    if kind == "text":
        for text in texts:
            build.candidate(text, partial(Side, text))
        return texts
    paths = row.texts("tgt_img_path")
    if len(paths) != len(texts):
        raise UnusableError("unreadable row", f"{len(texts)} target texts but {len(paths)} pictures: complete the row")
    if kind == "image":
        names = paths
    else:
        names = [f"{path}:{text.strip(chr(34))}" for path, text in zip(paths, texts, strict=True)]
    instruction = row.text("tgt_inst", "")
    for name, text, path in zip(names, texts, paths, strict=True):
        build.candidate(name, partial(_side, root, build, instruction, text, path))
    return names


def _side(root: Path, build: TaskBuilder, instruction: str, text: str, path: str) -> Side:
    whole = _IMAGE_PLACE.sub("", joined(instruction, text)).strip()
    images = (picture(root, build.row.paths["images"], path),) if path.strip() else ()
    return Side(whole, images)
