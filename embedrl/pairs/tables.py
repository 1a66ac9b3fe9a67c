"""`from_csv`: pairs from a table that names pictures or videos and holds their captions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from embedrl.data.on_bad import MAX_BAD, OnBad, OnBadMode
from embedrl.errors import DataError
from embedrl.pairs.collection import CaptionRow, PairSet, collect
from embedrl.pairs.media import MediaBytes, MediaFile, check_kind
from embedrl.pairs.table_rows import (
    IMAGE_NAMES,
    Table,
    TableRow,
    column,
    open_table,
    parquet_cell,
    text_of,
    texts_of,
)
from embedrl.utils.file_names import resolve

MEDIA_NAMES = (*IMAGE_NAMES, "video", "video_path")
"""Usual names of the column of pictures or videos."""

TEXT_NAMES = ("text", "caption", "captions", "description", "title", "alt", "alt_text", "prompt", "label", "name")
"""Usual names of the column of captions."""


def from_csv(
    path: str | Path,
    image: str | None = None,
    text: str | None = None,
    root: str | Path | None = None,
    id: str | None = None,
    group: str | None = None,
    name: str | None = None,
    on_bad: OnBadMode = "raise",
    max_bad: int = MAX_BAD,
) -> PairSet:
    """Read pairs from a CSV, TSV, JSON lines or Parquet file.

    Args:
        path: The table; its suffix says how it is read. Texts are UTF-8.
        image: The column with the paths of pictures or videos; None means one with a usual name (`image`, `file_name`,
            `path` ...). In Parquet files the column may hold the pictures themselves (`{bytes, path}`).
        text: The column with the captions; None means one with a usual name (`text`, `caption`, `title` ...). Where a
            cell is a list, each entry is a caption.
        root: The folder that paths are relative to; None means the table's folder.
        id: The column with ids; None makes them from caption and picture.
        group: A column whose equal values stay on one side of a split, such as a product's number.
        name: Name of the data set; None means the file's name without its suffix.
        on_bad: A bad row: stop, or leave it out and count it.
        max_bad: The most rows that `skip` leaves out.

    Raises:
        DataError: If the file or a column is missing, a row is bad and `on_bad` is `raise`, or no pair is left.
        TooManyBadError: If more than `max_bad` rows are bad.
    """
    path = Path(path)
    table = open_table(path)
    names = (
        column(table, image, MEDIA_NAMES, "--image", "pictures' files"),
        column(table, text, TEXT_NAMES, "--text", "captions"),
        column(table, id, (), "--id", "ids") if id is not None else None,
        column(table, group, (), "--group", "groups") if group is not None else None,
    )
    folder = path.parent if root is None else Path(root)
    rows = (row for source in table.rows for row in _rows(table, source, folder, names))
    origin = f"{path.name} (columns {names[0]} and {names[1]})"
    return collect(name or path.stem, folder, rows, OnBad(on_bad, max_bad, "--"), origin)


def _rows(
    table: Table, row: TableRow, root: Path, names: tuple[str, str, str | None, str | None]
) -> Iterator[CaptionRow]:
    """The pairs of a row: one for each of its captions."""
    image, text, id_name, group = names
    try:
        if row.error:
            raise DataError(row.error)
        missing = [name for name in names if name is not None and name not in row.values]
        if missing:
            raise DataError(f"{missing[0]!r} is missing: complete the row")
        media = _media(row, table.path, image, root)
        captions = texts_of(row.values[text])
        label = text_of(row.values[id_name]).strip() if id_name else ""
        if id_name and not label:
            raise DataError(f"{id_name!r} is empty: give an id, or leave --id out")
        kind = text_of(row.values[group]) if group else ""
    except DataError as error:
        fault = str(error) if str(error).startswith(row.where) else f"{row.where}: {error}"
        yield CaptionRow(row.where, error=DataError(fault, error.cause))
        return
    for number, caption in enumerate(captions or [""]):
        yield CaptionRow(row.where, caption, media, f"{label}/{number}" if label and len(captions) > 1 else label, kind)


def _media(row: TableRow, path: Path, image: str, root: Path) -> MediaFile | MediaBytes:
    """The picture of a row: a file that it names, or bytes in a Parquet file, which are read when they are needed."""
    value = row.values[image]
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, bytes):
        return MediaBytes(f"{row.where}: {image}", partial(parquet_cell, str(path), row.number, image))
    return media_file(root, text_of(value.get("path") if isinstance(value, dict) else value))


def media_file(root: Path, path: str) -> MediaFile:
    """The picture or video that a row names.

    Args:
        root: The folder that paths are relative to.
        path: The path in the row; an absolute one must lie below the root.

    Raises:
        DataError: If it is empty, leaves the root, or is neither a picture nor a video.
    """
    if not path.strip():
        raise DataError("the path of the picture is empty: name its file, or leave the row out", "missing_file")
    path = path.strip()
    if Path(path).is_absolute() and Path(path).is_relative_to(root.absolute()):
        path = Path(path).relative_to(root.absolute()).as_posix()
    full, relative = resolve(root, path)
    check_kind(relative)
    return MediaFile(Path(full), relative)
