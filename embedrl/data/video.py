"""Videos as folders of frames or as files: listed in natural order, sampled evenly. Source: Embed-RL B.3."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import numpy as np

from embedrl.data.images import SUFFIXES, is_picture
from embedrl.errors import DataError, MissingFileError, overload_error
from embedrl.utils.input_files import visible

NUM_FRAMES = 8
"""Frames that are sampled from a video unless somebody says otherwise. Source: Embed-RL B.3."""

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".ogv", ".wmv"}
)
"""How the names of video files end, in small letters."""


def is_video(name: str) -> bool:
    """Whether a file name ends like a video's."""
    return PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES


def natural_key(name: str) -> tuple[list[tuple[int, int | str]], str]:
    """Sort key that puts `frame_2` before `frame_10`; names with equal numbers are sorted as texts."""
    parts = [part for part in re.split(r"(\d+)", name) if part]
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts], name


def list_frames(folder: str | Path) -> list[str]:
    """File names of the pictures in a folder, in natural order; hidden files and folders are no pictures.

    Raises:
        DataError: If the folder is missing, cannot be read or holds no picture.
        StorageError: If the machine cannot read files now.
    """
    try:
        if not Path(folder).is_dir():
            raise MissingFileError(f"frame folder {folder} does not exist: check the root folder and the row's path")
        names = [entry.name for entry in visible(Path(folder)) if is_picture(entry.name) and not entry.is_dir()]
    except OSError as error:  # a name that is too long, a folder that may not be read
        if (overloaded := overload_error(error, f"frame folder {folder}")) is not None:
            raise overloaded from error
        raise DataError(f"frame folder {folder} cannot be read ({error.strerror}): check the row's path") from error
    if not names:
        kinds = ", ".join(sorted(SUFFIXES))
        raise MissingFileError(f"frame folder {folder} holds no pictures ({kinds}): extract its frames")
    return sorted(names, key=natural_key)


def sample_frames(n_frames: int, k: int = NUM_FRAMES) -> list[int]:
    """Positions of `k` frames spread evenly over a video, first and last included.

    Args:
        n_frames: Number of frames there are, at least 1.
        k: Number of frames to sample, at least 1.

    Returns:
        `k` positions, 0-based, `linspace` cut to whole numbers; a video of fewer frames repeats some, so that
        1-based `key_frames` always count up to `k`. Source: Embed-RL B.3.
    """
    return [int(i) for i in np.linspace(0, n_frames - 1, k).astype(int)]
