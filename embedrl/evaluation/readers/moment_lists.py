"""Moment retrieval from lists of clips (MomentSeeker): a text, alone or with a picture or a video, against clips."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from embedrl.evaluation.readers.build import TaskBuilder, UnusableError
from embedrl.evaluation.readers.files import Row, frames, joined, picture, read_rows
from embedrl.types import Side


def read(build: TaskBuilder, root: Path) -> None:
    """Read rows of `query`, `input_frames`, and `positive_frames[]` and `negative_frames[]` with `output_path`.

    `input_frames` names a video (`.mp4`), a picture (`.jpg`) or nothing; each has its own instruction. A clip's folder
    below `video_frames/` is its path with `_` for `/` and without `.mp4`; all its frames are read.

    Args:
        build: Takes the queries and candidates.
        root: The root of the local copy.

    Raises:
        DataError: As `read_task`.
    """
    for index, row in enumerate(read_rows(root / build.row.paths["rows"])):
        with build.unless_bad(row.where):
            query = _query(build, root, row)
            right, wrong = _clips(row, "positive_frames"), _clips(row, "negative_frames")
            for name in right + wrong:
                build.candidate(name, partial(_clip, build, root, name))
            build.query(str(index), query, dict.fromkeys(right, 1.0), right + wrong)


def _query(build: TaskBuilder, root: Path, row: Row) -> Side:
    shown = row.text("input_frames", "")
    options = build.row.options
    if shown.endswith(".mp4"):
        video = frames(root, build.row.paths["frames"], _folder(shown), None)
        return Side(joined(options["video_instruction"], row.text("query")), frames=video)
    if shown.endswith(".jpg"):
        image = picture(root, build.row.paths["frames"], f"query_{shown}")
        return Side(joined(options["image_instruction"], row.text("query")), (image,))
    return Side(joined(build.row.instruction, row.text("query")))


def _clips(row: Row, key: str) -> list[str]:
    clips = row.values.get(key)
    if not isinstance(clips, list) or not all(isinstance(clip, Mapping) for clip in clips):
        raise UnusableError("unreadable row", f"{key!r} is {clips!r:.60}, not a list of clips: check the format")
    return [_folder(Row(clip, row.where, row.file).text("output_path")) for clip in clips]


def _folder(path: str) -> str:
    return f"video_frames/{path.split('.mp4')[0].replace('/', '_')}"


def _clip(build: TaskBuilder, root: Path, name: str) -> Side:
    return Side(build.row.target_instruction, frames=frames(root, build.row.paths["frames"], name, None))
