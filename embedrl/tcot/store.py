"""The store of T-CoTs, keyed by the content of the side, the prompt and the model. Source: Embed-RL §I.

The key is a hash of what the model reads (the text, the pixels, the prompt's words) and of what writes: the model's
name, options and weights. A picture that is a file (an `ImageSource` with a `path`) is identified by its bytes,
wherever it is stored; a frame of a video file by the file's bytes and its number; any other picture by its `name`.
So one journal serves training, evaluation and search, and a changed picture or prompt never gets an outdated T-CoT.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from embedrl.errors import MissingFileError, PictureError, overload_error
from embedrl.tcot.prompts import Situation, Style, prompt
from embedrl.tcot.schema import clean_text
from embedrl.types import ImageSource, Side
from embedrl.utils.input_files import not_regular
from embedrl.utils.record_store import RecordStore


@dataclass(frozen=True, slots=True)
class Record:
    """One requested T-CoT.

    Attributes:
        key: What `tcot_key` returns.
        tcot: The text; of a failed one the last answer, which may be empty.
        ok: Whether it follows the template.
        problems: What is wrong with the text (codes of `ProblemCode`), or why there was no answer.
        attempts: Number of requests.
        tokens: Tokens that a Reasoner spent on it, those of T-CoTs that it did not keep included; 0: not known.
    """

    key: str
    tcot: str
    ok: bool
    problems: tuple[str, ...] = ()
    attempts: int = 1
    tokens: int = 0


@lru_cache
def prompt_version(style: Style, situation: Situation) -> str:
    """Hash of a prompt's text: another wording is another version."""
    return hashlib.sha256(prompt(situation, style).encode()).hexdigest()[:12]


def tcot_key(side: Side, situation: Situation, style: Style, model: str) -> str:
    """The key of a side's T-CoT.

    Args:
        side: The side; its own T-CoT does not count.
        situation: The situation in which the T-CoT is written.
        style: Style of the prompt.
        model: What writes, e.g. the `key` of a model of data construction: its name, options and weights.

    Returns:
        32 hexadecimal digits.

    Raises:
        DataError: If a picture file is missing.
    """
    parts = [content_hash(side), prompt_version(style, situation), model]
    return _hash(parts)


def content_hash(side: Side) -> str:
    """Hash of a side's text, pictures and frames (with their rate), without its T-CoT.

    Unlike `Side.key` it reads files: copies have one hash on every machine, and a file with new bytes another.

    Raises:
        DataError: If a picture file is missing.
    """
    images, frames = ([picture_content(source) for source in sources] for sources in (side.images, side.frames))
    return _hash([clean_text(side.text), images, frames, float(side.fps) if frames else 0.0])


def _hash(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def picture_content(source: ImageSource) -> str:
    """What a picture is: a hash of its bytes if it is a file, else what it says of itself (`content`), else its name.

    Raises:
        DataError: If the file is missing.
    """
    if (content := getattr(source, "content", None)) is not None:
        return str(content())
    path = getattr(source, "path", None)
    if path is None:
        return f"name:{source.name}"
    try:
        stat = os.stat(path)  # noqa: PTH116  # called for every picture of a data set
        if kind := not_regular(stat.st_mode):
            raise PictureError(f"picture {path} cannot be read ({kind}): give a picture's file")
        return _file_hash(os.fspath(path), stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size)
    except (OSError, ValueError) as error:
        if (overloaded := overload_error(error, f"picture {path}")) is not None:
            raise overloaded from error
        what = getattr(error, "strerror", None) or error
        raise MissingFileError(f"picture {path} cannot be read ({what}): check the root folder and the path") from error


@lru_cache(maxsize=1 << 17)
def _file_hash(path: str, *state: int) -> str:
    """Hash of a file's bytes; read again only when its inode, its times or its size have changed."""
    with Path(path).open("rb") as file:
        return f"bytes:{hashlib.file_digest(file, 'sha256').hexdigest()[:32]}"


class TCoTJournal(RecordStore[Record]):
    """T-CoTs on disk, one JSON line each; see `RecordStore` for what a kill, a second writer or a broken line does."""

    def record(self, row: dict[str, Any]) -> Record:
        """See `RecordStore`."""
        problems = tuple(row["problems"])
        return Record(row["key"], row["tcot"], row["ok"], problems, row["attempts"], row.get("tokens", 0))

    def problem(self, row: dict[str, Any]) -> str:
        """See `RecordStore`."""
        kinds = {"key": str, "tcot": str, "ok": bool, "problems": list, "attempts": int, "tokens": int}
        row = {"tokens": 0, **row}  # older journals hold none
        for name, kind in kinds.items():
            if not isinstance(row.get(name), kind):
                return f"{name!r} is {row.get(name)!r:.60}, not of type {kind.__name__}"
        if not all(isinstance(problem, str) for problem in row["problems"]):
            return f"'problems' is {row['problems']!r:.60}, not a list of texts"
        unknown = [name for name in row if name not in kinds]
        return f"unknown key {unknown[0]!r:.60}" if unknown else ""
