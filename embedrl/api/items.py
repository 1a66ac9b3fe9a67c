"""What a program gives to embed or to reason about, as a side."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from embedrl.data.images import is_picture
from embedrl.data.in_memory import picture_source
from embedrl.data.pdf import page_source
from embedrl.data.video import NUM_FRAMES, is_video
from embedrl.data.video_file import video_frames
from embedrl.errors import DataError, MissingFileError
from embedrl.types import DEFAULT_FPS, ImageSource, Side
from embedrl.utils.reserved_words import QWEN, as_pattern, escape

KEYS = ("text", "image", "images", "page", "video", "fps", "tcot")
"""The keys of an item that is a dict."""

Item = Any
"""A text, the name of a file, a picture, a dict, or a `Side`: see `to_side`."""


def to_side(item: Item, num_frames: int = NUM_FRAMES) -> Side:
    """An item as a side; files are opened later, when their pixels are needed.

    | item | is |
    |---|---|
    | a `str` | a text; if it ends like a picture or a video (`.png`, `.mp4`), that file, which must exist |
    | a `pathlib.Path` | always a file: a picture, a video, or a folder with the frames of one |
    | a picture of Pillow, an array of uint8 `[height, width, 3]`, an `ImageSource` | a picture |
    | an array of uint8 `[frames, height, width, 3]` | the frames of a video |
    | a dict | any of `text`, `image` or `images` (files or pictures), `page` (a picture, or a PDF file and a page's
      number from 1), `video` (a file, a folder of frames, or a list of them), `fps`, `tcot` |
    | a `Side` | itself |

    Args:
        item: See the table.
        num_frames: Frames sampled from a video's file or folder, evenly, first and last included.

    Raises:
        DataError: If it is none of these, or names a file that is not there.
    """
    if isinstance(item, Side):
        return item
    if isinstance(item, Mapping):
        return _of_mapping(item, num_frames)
    if isinstance(item, str):
        kind = _kind_of_name(item)
        if kind != "text" and not Path(item).expanduser().is_file():
            raise MissingFileError(
                f"{item!r} ends like a file, and there is none of that name: check the path, or give {{'text': ...}} "
                "if a text is meant"
            )
        return _of_mapping({kind: item}, num_frames)
    if isinstance(item, Path):
        return _of_mapping({_kind_of_path(item): item}, num_frames)
    if isinstance(item, Image.Image | ImageSource):
        return _of_mapping({"image": item}, num_frames)
    if hasattr(item, "__array__") and getattr(item, "ndim", 0) in (3, 4):
        return _of_mapping({"image" if item.ndim == 3 else "video": item}, num_frames)
    raise DataError(f"an item of type {type(item).__name__}: give a text, a file, a picture, a dict or a Side")


def is_one(items: Any) -> bool:
    """Whether this is one item rather than several: anything but a list, a tuple, or another iterable of items."""
    return isinstance(items, str | Path | Mapping | Side | Image.Image | np.ndarray | ImageSource) or not hasattr(
        items, "__iter__"
    )


def marks_of(preprocessor: object) -> re.Pattern[str]:
    """The words that mark pixels for a model: a data set with one is refused, a user's text is not.

    Args:
        preprocessor: The model's.
    """
    return as_pattern(getattr(preprocessor, "placeholders", ()))


def without_marks(side: Side, marks: re.Pattern[str]) -> Side:
    """The side, words in its text that a model reads as marks spelled apart.

    Args:
        side: The side.
        marks: What `marks_of` returned.
    """
    return replace(side, text=escape(escape(side.text, QWEN), marks))


def _kind_of_name(name: str) -> str:
    """The key of an item that is a text or a file's name."""
    if "\n" in name:
        return "text"
    if is_picture(name):
        return "image"
    return "video" if is_video(name) else "page" if name.lower().endswith(".pdf") else "text"


def _kind_of_path(path: Path) -> str:
    """The key of an item that is a file or a folder."""
    place = path.expanduser()
    if not place.exists():
        raise MissingFileError(f"{path}: no such file or folder: check the path")
    kind = "video" if place.is_dir() else _kind_of_name(path.name)
    if kind == "text":
        raise DataError(
            f"{path}: neither a picture nor a video by its name: give {{'text': path.read_text()}} for a text"
        )
    return kind


def _of_mapping(item: Mapping[str, Any], num_frames: int) -> Side:
    for key in item:
        if key not in KEYS:
            close = get_close_matches(str(key), KEYS, 1)
            meant = f"did you mean {close[0]!r}?" if close else f"give any of {', '.join(KEYS)}"
            raise DataError(f"an item with the key {key!r}: {meant}")
    given = {key: value for key, value in item.items() if value is not None}
    text, tcot, fps = given.get("text", ""), given.get("tcot", ""), given.get("fps", DEFAULT_FPS)
    for key, value in (("text", text), ("tcot", tcot)):
        if not isinstance(value, str):
            raise DataError(f"an item whose {key!r} is of type {type(value).__name__}: give a text")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < float("inf"):
        raise DataError(f"an item whose 'fps' is {fps!r:.60}: give a number above 0")
    if "image" in given and "images" in given:
        raise DataError("an item with both 'image' and 'images': give one of them")
    pictures = _as_list(given.get("image", given.get("images", ())))
    images = [picture_source(picture) for picture in pictures]
    if "page" in given:
        images += _pages(given["page"])
    frames = _frames(given["video"], num_frames) if "video" in given else ()
    side = Side(text, tuple(images), frames, tcot, float(fps))
    if side.is_empty:
        raise DataError("an empty item: give it a text, a picture or a video")
    return side


def _pages(page: Any) -> list[ImageSource]:
    """A document page: a picture, or a PDF file and the page's number from 1."""
    if isinstance(page, tuple) and len(page) == 2 and isinstance(page[1], int):
        return [page_source(Path(page[0]).expanduser(), page[1])]
    if isinstance(page, str | Path) and str(page).lower().endswith(".pdf"):
        raise DataError(f"{page}: a PDF has several pages: give {{'page': ({str(page)!r}, 1)}} for the first")
    return [picture_source(page)]


def _frames(video: Any, num_frames: int) -> tuple[ImageSource, ...]:
    """The frames of a video: sampled from a file or a folder, all of a list."""
    if isinstance(video, str | Path):
        return video_frames(Path(video).expanduser(), num_frames)
    if not isinstance(video, Sequence | np.ndarray) and not hasattr(video, "__array__"):
        raise DataError(f"a video of type {type(video).__name__}: give a file, a folder of frames, or a list of frames")
    if not len(video):
        raise DataError("a video without frames: give some")
    return tuple(picture_source(frame) for frame in video)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
