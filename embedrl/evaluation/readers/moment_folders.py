"""Moment retrieval from folders: a video with a description against clips, of which several may be right."""

from __future__ import annotations

from functools import partial
from pathlib import Path, PurePosixPath

from embedrl.data.video import natural_key
from embedrl.evaluation.readers.build import TaskBuilder, UnusableError
from embedrl.evaluation.readers.files import folder_of, frames, joined, read_rows
from embedrl.types import Side
from embedrl.utils.file_names import resolve
from embedrl.utils.input_files import visible


def read(build: TaskBuilder, root: Path) -> None:
    """Read rows of `query` and `video_path`, and the video's folder of frame folders.

    Beside `query`, the frames of the video itself, every folder is a clip; those that begin with `positive` are right.

    Args:
        build: Takes the queries and candidates.
        root: The root of the local copy.

    Raises:
        DataError: As `read_task`.
    """
    for index, row in enumerate(read_rows(root / build.row.paths["rows"])):
        with build.unless_bad(row.where):
            video = PurePosixPath(row.text("video_path")).stem
            text = joined(build.row.instruction, row.text("query"))
            query = Side(text, frames=frames(root, build.row.paths["frames"], f"{video}/query"))
            folder = Path(resolve(folder_of(root, build.row.paths["frames"]), video)[0])
            clips = sorted((path.name for path in visible(folder) if path.is_dir()), key=natural_key)
            clips = [clip for clip in clips if clip != "query"]
            if not any(clip.startswith("positive") for clip in clips):
                raise UnusableError(
                    "query without a relevant candidate", f"{folder} holds no folder positive*: extract its clips"
                )
            pool = [f"{video}/{clip}" for clip in clips]
            for name in pool:
                build.candidate(name, partial(_clip, build, root, name))
            right = {name: 1.0 for name, clip in zip(pool, clips, strict=True) if clip.startswith("positive")}
            build.query(str(index), query, right, pool)


def _clip(build: TaskBuilder, root: Path, name: str) -> Side:
    return Side(build.row.target_instruction, frames=frames(root, build.row.paths["frames"], name))
