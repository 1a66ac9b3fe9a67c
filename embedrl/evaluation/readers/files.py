"""Rows, pictures and frames of a local copy, checked when they are used."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq  # type: ignore[import-untyped]

from embedrl.data.arrow_pairs import get
from embedrl.data.images import ImageFile
from embedrl.data.json_stream import iter_rows
from embedrl.data.video import list_frames, natural_key, sample_frames
from embedrl.errors import DataError, unreadable
from embedrl.evaluation.readers.build import UnusableError
from embedrl.evaluation.table import SetRow
from embedrl.utils.file_names import resolve
from embedrl.utils.input_files import visible

NUM_FRAMES = 8
_SUFFIXES = (".parquet", ".jsonl", ".json")


class Row:
    """A row of a file, whose values are checked when they are asked for.

    Args:
        values: Content of the row; if it is no object, every method raises.
        where: The file and the row, for errors.
        file: Name of the file without its suffix.
    """

    def __init__(self, values: Any, where: str, file: str) -> None:
        self.values, self.where, self.file = values, where, file

    def text(self, key: str, default: str | None = None) -> str:
        """A text; a default makes the key optional, and null the same as absent.

        Raises:
            UnusableError: If it is missing or no text.
        """
        try:
            return str(get(self.values, key, str, default))
        except DataError as error:
            raise UnusableError("unreadable row", str(error)) from error

    def texts(self, key: str) -> list[str]:
        """A list of texts; a single text is a list of one.

        Raises:
            UnusableError: If it is missing, empty, or no list of texts.
        """
        try:
            value = self.values.get(key) if isinstance(self.values, dict) else None
            texts = [get(self.values, key, str)] if isinstance(value, str) else list(get(self.values, key, list))
        except DataError as error:
            raise UnusableError("unreadable row", str(error)) from error
        if not texts:
            raise UnusableError("unreadable row", f"{key!r} is an empty list: complete the row")
        return texts

    def name(self, key: str) -> str:
        """A name: a text that is not blank, or a whole number converted to one.

        Raises:
            UnusableError: If it is missing or anything else.
        """
        value = self.values.get(key) if isinstance(self.values, dict) else None
        name = str(value) if isinstance(value, int) and not isinstance(value, bool) else self.text(key)
        if not name.strip():
            raise UnusableError("unreadable row", f"{key!r} is {name!r}: give a name")
        return name

    def number(self, key: str) -> float:
        """A number, also one that is written as a text.

        Raises:
            UnusableError: If it is missing or no number.
        """
        value = self.values.get(key) if isinstance(self.values, dict) else None
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise UnusableError("unreadable row", f"{key!r} is {value!r:.60}, not a number: check the format")
        return number


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of a Parquet, JSON lines or JSON file, or of all such files of a folder in natural order.

    A line of a JSON lines file that is not JSON yields a row that raises when its values are read.

    Args:
        path: The file or folder. Of a folder with files for several splits (`test-*.parquet`), `test` is read.
        columns: Read only these of a Parquet file.

    Raises:
        DataError: If there is no such file, or it cannot be read.
    """
    files = _files(path)
    for file in files:
        if file.suffix == ".parquet":
            values = _parquet(file, columns)
        elif file.suffix == ".jsonl":
            values = _lines(file)
        else:
            values = (row for _, row in iter_rows(file))
        for index, row in enumerate(values):
            yield Row(row, f"{file.name}, row {index}", file.stem)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = [file for file in visible(path) if file.suffix in _SUFFIXES] if path.is_dir() else []
    if not files:
        raise DataError(f"{path} holds no rows ({', '.join(_SUFFIXES)}): put the local copy of the data set there")
    files.sort(key=lambda file: natural_key(file.name))
    return [file for file in files if file.stem.split("-")[0] == "test"] or files


def _parquet(path: Path, columns: Sequence[str] | None) -> Iterator[Any]:
    with unreadable(f"cannot read {path}", "fetch the file again"), pq.ParquetFile(path) as file:
        present = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=256, columns=present):
            yield from batch.to_pylist()


def _lines(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, nested too deeply
                    yield f"not JSON ({error})"


def picture(root: Path, folder: str, name: str) -> ImageFile:
    """A picture of the local copy.

    Args:
        root: The root of the local copy.
        folder: The folder of the pictures below the root, as the table gives it.
        name: Its path below the folder.

    Raises:
        UnusableError: If it is not there, or its path leaves the folder.
    """
    path, relative = _resolve(root, folder, name)
    source = ImageFile(path, relative)
    try:
        source.check()
    except DataError as error:
        raise UnusableError("missing picture", str(error)) from error
    return source


def frames(root: Path, folder: str, name: str, limit: int | None = NUM_FRAMES) -> tuple[ImageFile, ...]:
    """The frames of a video, in natural order, spread evenly over it.

    A video of fewer frames than the limit keeps those it has, as the public evaluation does.

    Args:
        root: The root of the local copy.
        folder: The folder of the videos' frame folders below the root, as the table gives it.
        name: The video's frame folder below that.
        limit: Number of frames; None means all that are there.

    Raises:
        UnusableError: If the frame folder is missing or holds no picture, or its path leaves the folder.
    """
    path, relative = _resolve(root, folder, name)
    try:
        names = list_frames(path)
    except DataError as error:
        cause = "frame folder without frames" if "holds no pictures" in str(error) else "missing frame folder"
        raise UnusableError(cause, str(error)) from error
    if limit is not None and len(names) > limit:
        names = [names[place] for place in sample_frames(len(names), limit)]
    return tuple(ImageFile(f"{path}/{frame}", f"{relative}/{frame}") for frame in names)


def required_paths(row: SetRow, root: Path) -> list[Path]:
    """The files and folders without which a data set cannot be read: those of the table, its rows first.

    Args:
        row: The data set.
        root: The root of the local copy.
    """
    return [folder_of(root, row.paths[name]) for name in sorted(row.paths, key=lambda name: name != "rows")]


def folder_of(root: Path, folder: str) -> Path:
    """Where a folder of the table is: the first of its alternatives (`a | b`) that is there, or else the first.

    Args:
        root: The root of the local copy.
        folder: The folder below the root, as the table gives it.
    """
    places = [root / place.strip() for place in folder.split("|")]
    return next((place for place in places if place.is_dir()), places[0])


def _resolve(root: Path, folder: str, name: str) -> tuple[str, str]:
    """The path to open, and its name, which is the same whichever alternative of the folder is there."""
    try:
        path, relative = resolve(folder_of(root, folder), name)
    except DataError as error:
        raise UnusableError("unreadable row", str(error)) from error
    return path, f"{folder.split('|')[0].strip()}/{relative}"


def joined(*parts: str) -> str:
    """Texts with one blank between them; empty ones are left out."""
    return " ".join(part.strip() for part in parts if part.strip())
