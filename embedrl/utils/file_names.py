"""Names and paths that come from data: where a row's file is, and what a file is called that data name."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from embedrl.errors import ConfigError, DataError

MAX_BYTES = 120
"""Longest name that `file_name` makes, in UTF-8: file systems take 255, and suffixes come behind it."""

_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|\Z)", re.IGNORECASE)  # opens a device on Windows
_LONGEST = 240  # bytes of a file's name with its suffix: `replacing` puts `.part` behind it


def resolve(root: str | Path, name: str) -> tuple[str, str]:
    """Where a file named in a row is.

    Args:
        root: The folder that rows are relative to.
        name: The path in the row.

    Returns:
        The path to open, and the normalised path relative to the root.

    Raises:
        DataError: If the path is absolute or leaves the root.
    """
    relative = os.path.normpath(name.replace("\\", "/"))
    parts = PurePosixPath(relative).parts
    if not name.strip() or "\0" in name or relative.startswith("/") or ".." in parts:
        raise DataError(f"path {name!r:.300} leaves the root folder {root}: give a path inside it")
    return str(Path(root) / relative), relative


def resolve_new(root: str | Path, name: str) -> Path:
    r"""Where a file goes that a row names: as `resolve`, and no other name means the same file.

    Args:
        root: The folder that the file must stay in.
        name: The path that the row asks for.

    Raises:
        DataError: If it leaves the root, is written in another way than it would be read back (`./a`, `a//b`, `a\b`),
            has control characters, or a part that is too long for a file's name.
    """
    path, relative = resolve(root, name)
    longest = max((len(part.encode("utf-8", "replace")) for part in PurePosixPath(relative).parts), default=0)
    if longest > _LONGEST:
        raise DataError(f"{name!r:.80} has {longest} bytes: a file's name has at most {_LONGEST}: give a shorter one")
    if relative != name or not longest or any(unicodedata.category(c) == "Cc" for c in name):
        raise DataError(f"{name!r:.300} is no plain name of a file: give one such as `page-1`")
    return Path(path)


def file_name(name: str) -> str:
    """The name of a file, without suffix, for a thing that data or a recipe name: a task, a data set.

    Letters of all scripts, digits, `_`, `-` and dots are kept, runs of anything else become `_`. What no file can be
    called (nothing, `..`, a device of Windows) or hides it gets `_` in front, a name that is too long ends with a hash.

    >>> " ".join(file_name(name) for name in ("world/grounding", "MSR-VTT", "../up", "NUL", ""))
    'world_grounding MSR-VTT _.._up _NUL _'
    """
    text = unicodedata.normalize("NFC", name)
    kept = "".join(c if c.isalnum() or c in "_.-" or unicodedata.category(c)[0] == "M" else " " for c in text)
    kept = re.sub(" +", "_", kept)
    if not kept or kept[0] == "." or _DEVICE.match(kept):
        kept = f"_{kept}"
    if len(kept.encode()) > MAX_BYTES:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        kept = f"{kept.encode()[: MAX_BYTES - 17].decode(errors='ignore')}-{digest}"
    return kept


def check_file_names(names: Iterable[str], flag: str, taken: Iterable[str] = ()) -> None:
    """Check that things with these names have a file each, also where file systems ignore case.

    Args:
        names: The names.
        flag: Where they come from, for the error.
        taken: What else has a file there, by the names of the files.

    Raises:
        ConfigError: If two of them have one.
    """
    seen = {file.casefold(): f"the command's own {file}" for file in taken}
    for name in names:
        file = file_name(name)
        if other := seen.get(file.casefold()):
            raise ConfigError(f"{flag}: {name!r:.80} and {other} would both be written to {file}: rename one")
        seen[file.casefold()] = f"{name!r:.80}"
