"""Rows of CSV, TSV, JSON lines and Parquet files, each with the place that an error can name."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from embedrl.data.json_stream import iter_rows
from embedrl.errors import DataError, said, unreadable
from embedrl.utils.input_files import not_regular

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
"""How the names of tables end."""

IMAGE_NAMES = (
    *("image", "images", "image_path", "file_name", "filename", "file", "path", "picture", "img", "photo"),
    *("filepath", "file_path"),
)
"""Usual names of the column of pictures, the best first."""

_DELIMITERS = ",;\t|"


class TableRow(NamedTuple):
    """A row of a table.

    Attributes:
        where: The file, the row counted from 1, and the line where there are lines.
        values: Its values by column.
        error: What is wrong with it; empty if nothing is.
        number: Its number in a Parquet file, counted from 1.
    """

    where: str
    values: Mapping[str, Any]
    error: str = ""
    number: int = 0


class Table(NamedTuple):
    """A table that is open.

    Attributes:
        path: The file.
        columns: Its columns; of JSON lines, those of the first row.
        rows: Its rows; they can be read once.
        total: How many there are; None if nobody knows.
    """

    path: Path
    columns: list[str]
    rows: Iterator[TableRow]
    total: int | None = None


def open_table(path: Path) -> Table:
    """Open a table; its suffix says how it is read.

    Args:
        path: A `.csv` (the delimiter is that of its first line: comma, semicolon, tab or `|`), `.tsv`, `.jsonl`,
            `.ndjson`, `.json` (a list) or `.parquet` file. Texts are UTF-8, with or without a byte order mark.

    Raises:
        DataError: If the file is missing, of another kind, empty, not UTF-8, or its header cannot be used.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: a table's name ends with {', '.join(SUFFIXES)}: rename or convert it")
    try:
        kind = not_regular(path.stat().st_mode)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check the path") from error
    if kind:
        raise DataError(f"{path} cannot be read ({kind}): give a file")
    if suffix == ".parquet":
        return _parquet(path)
    return _csv(path) if suffix in (".csv", ".tsv") else _json(path)


def column(table: Table, given: str | None, names: Sequence[str], flag: str, meaning: str) -> str:
    """The column that was asked for, or the first one with a usual name.

    Args:
        table: The table.
        given: What was asked for; None means a usual name.
        names: The usual names, in small letters, the best first.
        flag: The option that names the column, for errors.
        meaning: What the column holds, for errors.

    Raises:
        DataError: If there is none.
    """
    has = f"it has {', '.join(map(repr, table.columns))[:300]}"
    if given is not None:
        if given not in table.columns:
            raise DataError(f"{table.path} has no column {given!r}: {has}; give one of them as {flag}")
        return given
    usual = usual_column(table.columns, names)
    if usual is None:
        raise DataError(f"{table.path}: which column holds the {meaning}? {has}; give one of them as {flag}")
    return usual


def usual_column(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """The column with the best of some usual names, whatever its case; None if there is none.

    >>> usual_column(["n", "File", " Image "], IMAGE_NAMES)
    ' Image '
    """
    by_name = {name.strip().casefold(): name for name in reversed(columns)}
    return next((by_name[name] for name in names if name in by_name), None)


def _csv(path: Path) -> Table:
    rows = _csv_cells(path)
    try:
        _, header = next(rows)
    except StopIteration:
        raise DataError(f"{path} is empty: give a table with a line of column names") from None
    header = [name.strip() for name in header]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice or not all(header):
        fault = f"two columns are named {twice[0]!r}" if twice else "a column has no name"
        raise DataError(f"{path}: line 1: {fault}: the first line names the columns, each differently")
    return Table(path, header, _csv_rows(path, header, rows))


def _csv_rows(path: Path, header: list[str], rows: Iterator[tuple[int, list[str]]]) -> Iterator[TableRow]:
    for number, (line, cells) in enumerate(rows, 1):
        where = f"{path}: row {number} (line {line})"
        if len(cells) != len(header):
            fault = f"{len(cells)} cells for {len(header)} columns: quote a cell that holds the delimiter or a line end"
            yield TableRow(where, {}, fault)
        else:
            yield TableRow(where, dict(zip(header, cells, strict=True)))


def _csv_cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, with the line on which each begins."""
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(file.readline())
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for cells in reader:
                if cells:
                    yield line, cells
                line = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error
    except csv.Error as error:
        raise DataError(
            f"{path}: line {line}: no CSV ({error}): close the quotes, and double those in a cell"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check the file") from error


def _delimiter(header: str) -> str:
    """The delimiter of a header line; a comma if it names one column."""
    try:
        return csv.Sniffer().sniff(header.strip(), _DELIMITERS).delimiter
    except csv.Error:
        return ","


def _not_utf8(path: Path) -> DataError:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return DataError(
                    f"{path}: line {number} is not UTF-8 ({said(error)}): save the file as UTF-8", "encoding"
                )
    return DataError(f"{path} is not UTF-8: save the file as UTF-8", "encoding")


def _json(path: Path) -> Table:
    lines = None if path.suffix.lower() == ".json" else _json_lines(path)
    first = next(lines, None) if lines is not None else None
    if lines is None or (first is not None and first.error):  # a list, or rows that go over several lines
        rows, total = _json_rows(path), None
        first = next(rows, None)
    else:
        with path.open("rb") as file:
            rows, total = lines, sum(1 for line in file if line.strip())
    if first is None:
        raise DataError(f"{path} is empty: give a file with a row")
    start = first

    def every() -> Iterator[TableRow]:
        yield start
        yield from rows

    return Table(path, list(start.values), every(), total)


def _json_lines(path: Path) -> Iterator[TableRow]:
    """A row for each line that is not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for line, text in enumerate(file, 1):
                if text.strip():
                    values, fault = _json_object(text)
                    yield TableRow(f"{path}: line {line}", values, fault)
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check the file") from error


def _json_object(text: str) -> tuple[dict[str, Any], str]:
    """A line's object, and what is wrong with it."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        return {}, f"not JSON ({said(error)}): mend the line"
    return (values, "") if isinstance(values, dict) else ({}, "not a JSON object: mend the line")


def _json_rows(path: Path) -> Iterator[TableRow]:
    rows = iter_rows(path)
    while True:
        try:
            number_line_row = next(rows, None)
        except DataError as error:
            if "not UTF-8" in str(error):
                raise _not_utf8(path) from error
            raise
        if number_line_row is None:
            return
        line, values = number_line_row
        yield TableRow(f"{path}: line {line}", values)


def _parquet(path: Path) -> Table:
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    with unreadable(f"{path}: no Parquet file", "write it again"):
        file = pq.ParquetFile(path)
        columns = list(file.schema_arrow.names)

    def rows() -> Iterator[TableRow]:
        number = 0
        with unreadable(f"{path}: broken behind row {number}", "write it again"):
            for batch in file.iter_batches(batch_size=64):  # pictures may stand in it
                for values in batch.to_pylist():
                    number += 1
                    yield TableRow(f"{path}: row {number}", values, number=number)

    return Table(path, columns, rows(), file.metadata.num_rows)


def parquet_cell(path: str, number: int, name: str) -> bytes:
    """The bytes in a cell of a Parquet file, which may stand in an object with `bytes`.

    Args:
        path: The file.
        number: The row, counted from 1.
        name: The column.

    Raises:
        DataError: If the file can no longer be read.
    """
    import pyarrow.parquet as pq

    left = number - 1
    with unreadable(f"{path}: row {number} cannot be read", "write it again"):
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            size = metadata.row_group(group).num_rows
            if left < size:
                value = _row_group(path, group, name, Path(path).stat().st_mtime_ns)[left].as_py()
                return bytes(value["bytes"] if isinstance(value, dict) else value)
            left -= size
        raise DataError(f"{path} has no row {number} any more: start again")


@lru_cache(maxsize=1)  # rows are asked for in their order
def _row_group(path: str, group: int, name: str, *state: int) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path).read_row_group(group, columns=[name]).column(name)


def text_of(value: Any) -> str:
    """A cell as text: numbers are written out, null is empty.

    Raises:
        DataError: If it is neither text nor number.
    """
    if value is None or value != value:  # not a number: how tables of numbers say that nothing is there
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise DataError(f"{json.dumps(value, default=repr)[:80]} is no text: give a column of texts")


def texts_of(value: Any) -> list[str]:
    """A cell of captions: a text, or a list of texts.

    Raises:
        DataError: If it is neither.
    """
    return [text_of(one) for one in value] if isinstance(value, list) else [text_of(value)]
