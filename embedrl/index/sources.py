"""Where items come from: a folder, a table of any usual kind, or a program's own; each with its metadata."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from embedrl.api.items import KEYS
from embedrl.data.images import decode_picture, is_picture
from embedrl.data.video import is_video
from embedrl.errors import ConfigError, DataError, unreadable
from embedrl.types import Side
from embedrl.utils.console import tell
from embedrl.utils.input_files import visible_below

IMAGE_COLUMNS = ("image", "images", "image_path", "file_name", "filename", "file", "path")
"""Columns of a table that are taken for the picture's, the first that is there."""

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


class SourceItem(NamedTuple):
    """An item to add.

    Attributes:
        name: Its name in its source: a path below the folder, or `row 7`.
        item: What `embedrl.api.to_side` takes, or what is wrong with the row.
        metadata: Its other columns.
    """

    name: str
    item: Any
    metadata: Mapping[str, Any] = {}


@dataclass(frozen=True)
class ItemSource:
    """The items of a source.

    Attributes:
        name: Name of the source.
        rows: The items, read as they are asked for.
        total: How many there are; None if nobody knows.
    """

    name: str
    rows: Iterable[SourceItem]
    total: int | None = None


def read_source(source: Any, text_column: str | None = None, image_column: str | None = None) -> ItemSource:
    """The items of a source.

    Args:
        source: A folder of pictures and videos; a CSV, TSV, JSONL or Parquet file; a `datasets.Dataset`; or any
            iterable of items, of dicts of an item's keys and metadata, or of pairs of an item and its metadata.
        text_column: The column of a table with the items' texts; None means `text` if there is one.
        image_column: The column with the pictures or the names of their files, from the table's folder; None means the
            first of `IMAGE_COLUMNS`.

    Raises:
        ConfigError: If it is none of these, or a column is not there.
        DataError: If it cannot be read, or has no items.
    """
    columns = (text_column, image_column)
    if isinstance(source, str | Path):
        return _of_path(Path(source).expanduser(), columns)
    if hasattr(source, "column_names") and hasattr(source, "features"):  # datasets.Dataset
        roles = _roles(source.column_names, columns, "the data set")
        return ItemSource(
            "dataset", (_tabular(row, f"row {i}", roles, None) for i, row in enumerate(source)), len(source)
        )
    if not isinstance(source, Iterable) or isinstance(source, Mapping | Side):
        raise ConfigError(
            f"cannot add an object of type {type(source).__name__}: give a folder, a table's file, a Dataset or a list"
        )
    if any(columns):
        raise ConfigError("text_column and image_column name columns of a table: give a file or a Dataset with them")
    total = len(source) if isinstance(source, Sequence) else None
    return ItemSource("items", (_own(item, f"item {i}") for i, item in enumerate(source)), total)


def _own(item: Any, name: str) -> SourceItem:
    """An item of a program: a dict's keys that no item has are metadata."""
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], Mapping):
        return SourceItem(name, *item)
    if not isinstance(item, Mapping):
        return SourceItem(name, item)
    return SourceItem(
        name, {k: v for k, v in item.items() if k in KEYS}, {k: v for k, v in item.items() if k not in KEYS}
    )


def _of_path(path: Path, columns: tuple[str | None, str | None]) -> ItemSource:
    if path.is_dir():
        if any(columns):
            raise ConfigError(f"{path} is a folder: --text_column and --image_column name columns of a table")
        return _folder(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder: check the path")
    kind = path.suffix.lower()
    if kind not in TABLES:
        raise DataError(f"{path}: not a folder, nor a table ({', '.join(TABLES)}): give one of them")
    with unreadable(f"{path} cannot be read", "mend the file"):
        if kind in (".jsonl", ".ndjson"):
            return _json_lines(path, columns)
        if kind == ".parquet":
            return _parquet(path, columns)
        return _csv(path, columns, "\t" if kind == ".tsv" else ",")


def _folder(folder: Path) -> ItemSource:
    paths, other = [], Counter[str]()
    for path in visible_below(folder, "*"):
        if is_picture(path.name) or is_video(path.name):
            paths.append(path)
        elif path.is_file():
            other[path.suffix.lower() or "no suffix"] += 1
    if other:
        kinds = ", ".join(f"{suffix} {count}" for suffix, count in other.most_common(5))
        tell(f"{folder}: {other.total()} files are neither pictures nor videos and stay out ({kinds})")
    if not paths:
        raise DataError(f"{folder} holds no picture and no video: give another folder")
    return ItemSource(
        folder.name, (SourceItem(path.relative_to(folder).as_posix(), path) for path in paths), len(paths)
    )


def _csv(path: Path, columns: tuple[str | None, str | None], delimiter: str) -> ItemSource:
    from pyarrow import csv  # type: ignore[import-untyped]

    broken: list[SourceItem] = []

    def torn(row: Any) -> str:
        what = DataError(f"{path}, row {row.number}: {row.actual_columns} cells for {row.expected_columns} columns")
        broken.append(SourceItem(f"row {row.number}", what))
        return "skip"

    options = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=torn)
    # on one thread rows have numbers
    table = csv.read_csv(
        path, csv.ReadOptions(use_threads=False), options, csv.ConvertOptions(strings_can_be_null=True)
    )
    roles = _roles(table.column_names, columns, str(path))

    def rows() -> Iterator[SourceItem]:
        yield from broken
        number = 0
        for batch in table.to_batches(1024):
            for row in batch.to_pylist():
                number += 1
                yield _tabular(row, f"row {number}", roles, path.parent)

    return ItemSource(path.name, rows(), table.num_rows + len(broken))


def _parquet(path: Path, columns: tuple[str | None, str | None]) -> ItemSource:
    from pyarrow import parquet

    file = parquet.ParquetFile(path)
    roles = _roles(file.schema_arrow.names, columns, str(path))

    def rows() -> Iterator[SourceItem]:
        number = 0
        for batch in file.iter_batches(256):
            for row in batch.to_pylist():
                number += 1
                yield _tabular(row, f"row {number}", roles, path.parent)

    return ItemSource(path.name, rows(), file.metadata.num_rows)


def _json_lines(path: Path, columns: tuple[str | None, str | None]) -> ItemSource:
    with path.open("rb") as file:
        total = sum(1 for line in file if line.strip())

    def rows() -> Iterator[SourceItem]:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                name = f"line {number}"
                try:
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError("no object")
                    roles = _roles(list(row), columns, f"{path}, {name}")
                except (ValueError, RecursionError) as error:
                    yield SourceItem(name, DataError(f"{path}, {name}: not a JSON object ({error}): mend the line"))
                except ConfigError as error:  # one line may lack what others have
                    yield SourceItem(name, DataError(str(error)))
                else:
                    yield _tabular(row, name, roles, path.parent)

    return ItemSource(path.name, rows(), total)


def _roles(names: Sequence[str], columns: tuple[str | None, str | None], where: str) -> dict[str, str]:
    """Column → key of the item that it is."""
    text, image = columns
    for flag, column in (("--text_column", text), ("--image_column", image)):
        if column is not None and column not in names:
            raise ConfigError(f"{flag} {column}: {where} has no such column, but {', '.join(names)}")
    roles = {name: name for name in ("video", "fps", "tcot") if name in names}
    if text is None and "text" in names and image != "text":
        text = "text"
    image = image or next((name for name in IMAGE_COLUMNS if name in names and name != text), None)
    if text is not None:
        roles[text] = "text"
    if image is not None:
        roles[image] = "images"
    if not set(roles.values()) & {"text", "images", "video"}:
        raise ConfigError(
            f"{where} has neither a text nor a picture among {', '.join(names)}: name them by --text_column, "
            "--image_column"
        )
    return roles


def _tabular(row: Mapping[str, Any], name: str, roles: Mapping[str, str], root: Path | None) -> SourceItem:
    """A row of a table; the names of its files are relative to `root`."""
    item = {roles[key]: value for key, value in row.items() if key in roles and value is not None}
    try:
        if "text" in item:
            item["text"] = str(item["text"])
        if "images" in item:
            pictures = item["images"] if isinstance(item["images"], list) else [item["images"]]
            item["images"] = [_picture(picture, root) for picture in pictures]
            name = str(pictures[0]) if len(pictures) == 1 and isinstance(pictures[0], str) else name
        if isinstance(item.get("video"), str):
            name, item["video"] = item["video"], _file(item["video"], root)
    except DataError as error:
        return SourceItem(name, error)
    return SourceItem(name, item, {key: value for key, value in row.items() if key not in roles})


def _picture(value: Any, root: Path | None) -> Any:
    """A picture in a cell: the name of a file, Pillow's, or bytes as Parquet files of the Hub hold them."""
    if isinstance(value, str):
        return _file(value, root)
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if isinstance(value, Mapping) and content is None and isinstance(value.get("path"), str):
        return _file(value["path"], root)
    if isinstance(content, bytes):
        return decode_picture(content, "a picture in a cell", "replace it")
    return content


def _file(name: str, root: Path | None) -> str:
    return str(Path(name).expanduser() if root is None else root / Path(name).expanduser())
