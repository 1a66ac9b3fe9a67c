"""Video retrieval: captions against the videos of the whole set."""

from __future__ import annotations

from functools import partial
from pathlib import Path, PurePosixPath

from embedrl.evaluation.readers.build import TaskBuilder
from embedrl.evaluation.readers.files import frames, joined, read_rows
from embedrl.types import Side


def read(build: TaskBuilder, root: Path) -> None:
    """Read rows of a video's name and its caption; the table's options name the columns.

    `video`: the column of the name (with `name: stem`, of the file, whose name without folder and suffix counts).
    `text`: the column of the caption; of a list the first counts.

    Args:
        build: Takes the queries and candidates.
        root: The root of the local copy.

    Raises:
        DataError: As `read_task`.
    """
    options = build.row.options
    for index, row in enumerate(read_rows(root / build.row.paths["rows"])):
        with build.unless_bad(row.where):
            name = row.name(options["video"])
            name = PurePosixPath(name).stem if options.get("name") == "stem" else name
            text = joined(build.row.instruction, row.texts(options["text"])[0])
            build.candidate(name, partial(_video, build, root, name))
            build.query(str(index), Side(text), {name: 1.0})


def _video(build: TaskBuilder, root: Path, name: str) -> Side:
    return Side(build.row.target_instruction, frames=frames(root, build.row.paths["frames"], name))
