"""Where items come from: a folder, a table of any usual kind, or a program's own; each with its metadata."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from embedrl.api.items import KEYS
from embedrl.data.images import decode_picture, is_picture
from embedrl.data.video import is_video
from embedrl.errors import ConfigError, DataError
from embedrl.pairs.table_rows import IMAGE_NAMES, SUFFIXES, Table, TableRow, open_table, usual_column
from embedrl.types import Side
from embedrl.utils.console import tell
from embedrl.utils.input_files import visible_below

_JSON = (".jsonl", ".ndjson", ".json")
_PART = 4096  # rows of a CSV file that are turned into columns at once


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
        source: A folder of pictures and videos; a CSV, TSV, JSON, JSONL or Parquet file; a `datasets.Dataset`; or any
            iterable of items, of dicts of an item's keys and metadata, or of pairs of an item and its metadata.
        text_column: The column of a table with the items' texts; None means `text` if there is one.
        image_column: The column with the pictures or the names of their files, from the table's folder; None means
            one with a usual name (`embedrl.pairs.table_rows.IMAGE_NAMES`).

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
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: not a folder, nor a table ({', '.join(SUFFIXES)}): give one of them")
    return _table(path, columns)


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


def _table(path: Path, columns: tuple[str | None, str | None]) -> ItemSource:
    table = open_table(path)
    rows, total = table.rows, table.total
    if path.suffix.lower() not in _JSON:
        roles = _roles(table.columns, columns, str(path))  # says what is wrong before anything is embedded
        if total is None:
            rows, total = _typed(table, roles)
    items = (_table_item(row, table.path, columns) for row in rows)
    return ItemSource(path.name, items, total)


def _table_item(row: TableRow, path: Path, columns: tuple[str | None, str | None]) -> SourceItem:
    name = row.where.removeprefix(f"{path}: ").partition(" (")[0]
    if row.error:
        return SourceItem(name, DataError(f"{row.where}: {row.error}"))
    try:
        roles = _roles(list(row.values), columns, row.where)
    except ConfigError as error:  # one line of JSON may lack what others have
        return SourceItem(name, DataError(str(error)))
    return _tabular(row.values, name, roles, path.parent)


def _typed(table: Table, roles: Mapping[str, str]) -> tuple[Iterator[TableRow], int]:
    """The rows of a CSV file, and their number: an empty cell is null, and metadata have the types of their columns."""
    import pyarrow as pa  # type: ignore[import-untyped]

    broken: dict[int, TableRow] = {}
    parts, part = [], []
    for number, row in enumerate(table.rows, 1):
        if row.error:
            broken[number] = row
        else:
            part.append({name: value or None for name, value in row.values.items()})
        if len(part) == _PART:
            parts.append(pa.Table.from_pylist(part, _text_columns(table)))
            part = []
    whole = pa.concat_tables([*parts, pa.Table.from_pylist(part, _text_columns(table))])
    for i, name in enumerate(whole.column_names):
        if name not in roles:
            whole = whole.set_column(i, name, _typed_column(whole[name]))

    def rows() -> Iterator[TableRow]:
        values = (row for batch in whole.to_batches(1024) for row in batch.to_pylist())
        for number in range(1, whole.num_rows + len(broken) + 1):
            yield broken.get(number) or TableRow(f"{table.path}: row {number}", next(values))

    return rows(), whole.num_rows + len(broken)


def _text_columns(table: Table) -> Any:
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in table.columns])


def _typed_column(cells: Any) -> Any:
    """Texts as whole numbers, numbers, truth values, days or times, if all of them are."""
    import pyarrow as pa

    if cells.null_count == len(cells):
        return cells.cast(pa.null())
    for kind in (pa.int64(), pa.float64(), pa.bool_(), pa.date32(), pa.timestamp("s")):
        try:
            return cells.cast(kind)
        except pa.ArrowException:
            continue
    return cells


def _roles(names: Sequence[str], columns: tuple[str | None, str | None], where: str) -> dict[str, str]:
    """Column → key of the item that it is."""
    text, image = columns
    for flag, column in (("--text_column", text), ("--image_column", image)):
        if column is not None and column not in names:
            raise ConfigError(f"{flag} {column}: {where} has no such column, but {', '.join(names)}")
    roles = {name: name for name in ("video", "fps", "tcot") if name in names}
    if text is None and "text" in names and image != "text":
        text = "text"
    image = image or usual_column([name for name in names if name != text], IMAGE_NAMES)
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
