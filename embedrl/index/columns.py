"""The columns of an index: those that every index has, and those that metadata bring."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from embedrl.errors import DataError, said

HEADER = b"embedrl.index"
"""Where the table's metadata hold what an index was made with, as JSON."""

OWN = (
    "key", "vector", "text", "modality", "path", "item", "files", "relative_files", "tcot", "evidence", "thumbnail",
    "added_at",
)  # fmt: skip
"""The columns of every index; metadata may not bear these names."""

# Lance compares the keys of two commits that meet if the column is marked so; without it, both would be written.
_PRIMARY = {b"lance-schema:unenforced-primary-key:position": b"1"}

LIGHT = ("key", "text", "modality", "path", "item", "files", "relative_files", "tcot", "evidence", "thumbnail")
"""What a search reads of a row, beside its metadata."""


def own_fields(dim: int) -> list[pa.Field]:
    """The columns of every index.

    Args:
        dim: Length of a vector.
    """
    types: dict[str, pa.DataType] = {
        "vector": pa.list_(pa.float32(), dim),
        "files": pa.list_(pa.string()),
        "relative_files": pa.list_(pa.string()),
        "thumbnail": pa.binary(),
        "added_at": pa.timestamp("us", tz="UTC"),
    }
    key = pa.field("key", pa.string(), nullable=False, metadata=_PRIMARY)
    return [key, *(pa.field(name, types.get(name, pa.string())) for name in OWN[1:])]


def metadata_arrays(
    rows: Sequence[Mapping[str, Any]], schema: pa.Schema, names: Sequence[str]
) -> tuple[dict[str, pa.Array], list[pa.Field]]:
    """The metadata of a batch as typed columns, and the columns among them that the table has not.

    A column's type is that of its first values. A dict is kept as JSON. What is empty in all rows brings no column.

    Args:
        rows: The metadata of each row.
        schema: That of the table.
        names: A name of each row for errors.

    Raises:
        DataError: If a column's name is taken or impossible, or its values are of several types or of another one than
            the table's.
    """
    arrays: dict[str, pa.Array] = {}
    fields: list[pa.Field] = []
    lower = {name.lower(): name for name in schema.names}
    for name in dict.fromkeys(key for row in rows for key in row):
        _check_name(name)
        known = lower.get(name.lower())
        if known is not None and known != name:
            raise DataError(f"column {name!r}: the index has {known!r}, and SQL reads both as one: rename it")
        values = [_plain(row.get(name)) for row in rows]
        array = _array(name, values, names)
        if known is not None:
            arrays[name] = _cast(name, array, schema.field(name).type)
        elif not _is_empty(array.type):
            arrays[name] = array
            fields.append(pa.field(name, array.type))
            lower[name.lower()] = name
    return arrays, fields


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"a column of the metadata is named {name!r}: give it a name")
    if name.lower() in OWN or name.startswith("_"):
        raise DataError(f"column {name!r} of the metadata has a name that the index itself uses: rename it")
    if any(letter in name for letter in ".`\"'") or not name.isprintable():
        raise DataError(f"column {name!r} of the metadata: a name has no dots, quotes or control characters: rename it")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, default=str, sort_keys=True)
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def _array(name: str, values: list[Any], names: Sequence[str]) -> pa.Array:
    try:
        array = pa.array(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        kinds: dict[str, int] = {}
        for i, value in enumerate(values):
            if value is not None:
                kinds.setdefault(type(value).__name__, i)
        shown = ", ".join(f"{kind} in {names[i]}" for kind, i in list(kinds.items())[:3])
        raise DataError(
            f"column {name!r} of the metadata has no single type ({shown}; {said(error)}): make its values alike"
        ) from error
    return array.cast(pa.float64()) if pa.types.is_decimal(array.type) else array


def _is_empty(kind: pa.DataType) -> bool:
    return bool(pa.types.is_null(kind) or (pa.types.is_list(kind) and pa.types.is_null(kind.value_type)))


def _cast(name: str, array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The values in the table's type, if none changes."""
    if array.type == kind:
        return array
    number = (pa.types.is_integer, pa.types.is_floating)
    alike = all(any(is_one(each) for is_one in number) for each in (array.type, kind))
    alike = alike or (pa.types.is_temporal(array.type) and pa.types.is_temporal(kind))
    try:
        if alike or _is_empty(array.type):
            return array.cast(kind)
    except pa.ArrowException:
        pass  # named below
    raise DataError(
        f"column {name!r} of the metadata holds {array.type} here and {kind} in the index: give it that type, or "
        "rename it"
    )
