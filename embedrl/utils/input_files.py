"""Files and folders that come from outside: only regular files are read, what file managers leave behind is ignored."""

from __future__ import annotations

import gzip
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from embedrl.errors import DataError

_LEFT_BEHIND = frozenset(
    {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "#recycle", "$recycle.bin", "system volume information"}
)
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def is_hidden(name: str) -> bool:
    """Whether a name is hidden, or that of a file or folder that an archive or a file manager puts beside the data.

    >>> " ".join(name for name in ("1.png", "._1.png", ".DS_Store", "__MACOSX", "Thumbs.db") if not is_hidden(name))
    '1.png'
    """
    return name.startswith(".") or name.casefold() in _LEFT_BEHIND


def visible(folder: Path) -> list[Path]:
    """What a folder holds but for what is hidden (`is_hidden`), in no order.

    Args:
        folder: A folder that exists.
    """
    return [entry for entry in folder.iterdir() if not is_hidden(entry.name)]


def visible_below(folder: Path, pattern: str) -> Iterator[Path]:
    """All files below a folder whose names match, but for those that are hidden or lie in a hidden folder, in order.

    Args:
        folder: The folder; its own name may be hidden.
        pattern: The pattern of the files' names, such as `*.png`.
    """
    for path in sorted(folder.rglob(pattern)):
        if not any(map(is_hidden, path.relative_to(folder).parts)):
            yield path


def not_regular(mode: int) -> str:
    """What something on disk is if it is anything but a regular file; empty if it is one.

    Opening a FIFO waits for ever, and a device has no end.

    Args:
        mode: The `st_mode` of its `stat`.
    """
    if stat.S_ISREG(mode):
        return ""
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), "no regular file")


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a regular file, unpacked if its name ends with `.gz`.

    Args:
        path: The file.
        limit: Refuse more bytes, counted after unpacking: a small archive can hold very many.

    Raises:
        DataError: If it is no regular file, or holds more bytes.
        OSError: If it cannot be read.
        EOFError: If it is packed and cut off.
        zlib.error: If it is packed and broken.
    """
    if kind := not_regular(path.stat().st_mode):
        raise DataError(f"cannot read {path} ({kind}): give a file")
    with cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise DataError(f"{path} holds more than {limit} bytes: split it, or give a smaller file")
    return content
