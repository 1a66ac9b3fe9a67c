"""An item as a row: what is stored of it, and the item again from what was stored."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedrl.data.images import decode_picture
from embedrl.index.store import is_remote
from embedrl.tcot.parser import parse
from embedrl.types import DEFAULT_FPS, Side
from embedrl.visualization.drawing import fit

if TYPE_CHECKING:
    from PIL import Image

THUMBNAIL = 256
"""Longest side of a thumbnail, in pixels."""

_QUALITY = 85  # of its JPEG


def thumbnail(side: Side) -> bytes | None:
    """A small JPEG of a side's first picture or the middle frame of its video; None of a text.

    Args:
        side: The side; the picture is opened.

    Raises:
        DataError: If it is broken.
    """
    sources = side.frames or side.images
    if not sources:
        return None
    image = sources[len(sources) // 2 if side.frames else 0].load()
    if max(image.size) > THUMBNAIL:
        image = fit(image, THUMBNAIL, THUMBNAIL)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def evidence_of_tcot(side: Side) -> dict[str, Any]:
    """What a T-CoT points at: `boxes` (0..1000 of width and height), `frames` (from 1) and `keywords`."""
    if not side.tcot.strip():
        return {}
    cues = parse(side.tcot, side.modality, len(side.frames) or None).tcot.cues
    parts = {"boxes": cues.boxes, "frames": cues.key_frames, "keywords": cues.text_keywords}
    return {
        name: [list(one) if isinstance(one, tuple) else one for one in part] for name, part in parts.items() if part
    }


def stored_item(side: Side) -> dict[str, Any]:
    """A side as a dict of names of files, which `embedrl.api.to_side` reads; `in_memory` if a picture is no file."""
    item: dict[str, Any] = {"text": side.text} if side.text else {}
    pages = [(_file(source), source) for source in side.images]
    if any(hasattr(source, "index") for _, source in pages):
        if len(pages) == 1 and pages[0][0]:
            item["page"] = [pages[0][0], getattr(pages[0][1], "index") + 1]  # noqa: B009  # no part of ImageSource
        else:
            item["in_memory"] = True
    elif pages:
        item |= {"images": [file for file, _ in pages]} if all(file for file, _ in pages) else {"in_memory": True}
    frames = [_file(frame) for frame in side.frames]
    if frames and not all(frames):
        item["in_memory"] = True
    elif frames:
        item["video"] = frames[0] if hasattr(side.frames[0], "index") else frames
    if side.frames and side.fps != DEFAULT_FPS:
        item["fps"] = side.fps
    return item


def files_of(item: Mapping[str, Any]) -> list[str]:
    """The files that a stored item names, each once."""
    video = item.get("video", [])
    named = [*item.get("images", []), *item.get("page", [])[:1], *([video] if isinstance(video, str) else video)]
    return list(dict.fromkeys(named))


def relative(files: Sequence[str], uri: str) -> list[str]:
    """The same files seen from the folder that the index lies in, so that both may move together."""
    return list(files) if is_remote(uri) else [os.path.relpath(file, Path(uri).parent) for file in files]


def present(file: str, seen_from_index: str, uri: str) -> str | None:
    """Where a file is now: where it was, or at the same place seen from the index; None if it is gone."""
    if Path(file).exists():
        return file
    moved = None if is_remote(uri) else os.path.normpath(Path(uri).parent / seen_from_index)
    return moved if moved is not None and Path(moved).exists() else None


def restored_item(row: Mapping[str, Any], uri: str) -> dict[str, Any]:
    """The item of a row, for `embedrl.api.to_side`; in place of pictures that are no files, its thumbnail.

    Args:
        row: The row.
        uri: The index.
    """
    item: dict[str, Any] = json.loads(row["item"])
    moved = dict(zip(row["files"] or [], row["relative_files"] or [], strict=True))
    now = {file: present(file, seen, uri) or file for file, seen in moved.items()}
    if "images" in item:
        item["images"] = [now[file] for file in item["images"]]
    if "page" in item:
        item["page"] = (now[item["page"][0]], item["page"][1])
    if "video" in item:
        video = item["video"]
        item["video"] = now[video] if isinstance(video, str) else [now[file] for file in video]
    if item.pop("in_memory", False) and row.get("thumbnail"):
        item["images"] = [open_thumbnail(row["thumbnail"], str(row["path"]))]
    return item


def open_thumbnail(content: bytes, name: str) -> Image.Image:
    """A thumbnail as a picture.

    Raises:
        DataError: If it is broken.
    """
    return decode_picture(content, f"the thumbnail of {name}", "delete the row and add it again")


def _file(source: Any) -> str:
    path = getattr(source, "path", None) or getattr(source, "file", None)
    return "" if path is None else str(Path(path).absolute())
