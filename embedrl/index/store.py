"""The table on disk: opened, read and written in whole batches; what LanceDB refuses becomes one line."""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa  # type: ignore[import-untyped]

from embedrl.errors import ConfigError, DataError, EmbedRLError, StorageError, disk_error, said
from embedrl.index.columns import HEADER, own_fields
from embedrl.index.filters import check_filter, equals_any

T = TypeVar("T")

TABLE = "items"
_TRIES = 8  # of a change, beside another writer's
_KEYS = 256  # in one question


def lancedb() -> Any:
    """The library.

    Raises:
        ConfigError: If it is not installed.
    """
    os.environ.setdefault("LANCEDB_LOG", "error")  # its warnings are for its developers; read when it is imported
    try:
        import lancedb as library
    except ImportError as error:
        raise ConfigError("an index needs LanceDB: pip install embedrl[index]") from error
    return library


class Store:
    """One table of items. One row a content key, whoever writes: Lance refuses a commit whose keys another one took.

    Args:
        uri: The folder, or an address on an object store (`s3://...`).
        table: LanceDB's table.

    Attributes:
        header: What the index was made with.
    """

    def __init__(self, uri: str, table: Any) -> None:
        self.uri, self.table = uri, table
        content = (table.schema.metadata or {}).get(HEADER)
        if content is None:
            raise DataError(f"{uri}: a LanceDB table that embedrl did not make: give another folder")
        self.header: dict[str, Any] = json.loads(content)

    @classmethod
    def open(cls, uri: str) -> Store | None:
        """The table at a place; None if there is none.

        Raises:
            DataError: If it cannot be read, or is of another make.
        """
        if not is_remote(uri) and not any(Path(uri, f"{TABLE}.lance", "_versions").glob("*.manifest")):
            if Path(uri).exists() and not (Path(uri).is_dir() and _is_spare(Path(uri))):
                raise DataError(f"{uri} is no index: give a folder that `embedrl index build` made, or a new one")
            return None
        with one_line(uri):
            database = _connect(uri)
            if is_remote(uri) and TABLE not in database.table_names():
                return None
            return cls(uri, database.open_table(TABLE))

    @classmethod
    def create(cls, uri: str, dim: int, header: Mapping[str, Any]) -> Store:
        """A table without rows; if another process is faster, its.

        Args:
            uri: Where.
            dim: Length of a vector.
            header: What the index is made with.
        """
        schema = pa.schema(own_fields(dim), metadata={HEADER: json.dumps(header).encode()})
        with one_line(uri):
            database = _connect(uri)
            with contextlib.suppress(ValueError):  # it is there by now
                database.create_table(TABLE, schema=schema)
            return cls(uri, database.open_table(TABLE))

    def prepare(self) -> None:
        """Make the indices of keys and words that are not there: a creation may have been stopped."""
        from lancedb.index import FTS, BTree

        def make() -> None:
            present = {column for one in self.table.list_indices() for column in one.columns}
            for column, config in (("key", BTree()), ("text", FTS()), ("tcot", FTS())):
                if column not in present:
                    self.table.create_index(column, config=config)

        self._beside_others(make)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.table.schema.field("vector").type.list_size)

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        return self.table.schema

    def count(self, where: str | None = None) -> int:
        """Number of rows for which a condition holds; None: of all."""
        with one_line(self.uri, where):
            return int(self.table.count_rows(None if where is None else check_filter(where)))

    def known(self, keys: Sequence[str]) -> set[str]:
        """Which of these keys there are rows of."""
        present: set[str] = set()
        for start in range(0, len(keys), _KEYS):
            part = list(keys[start : start + _KEYS])
            with one_line(self.uri):
                rows = self.table.search().where(equals_any("key", part)).select(["key"]).limit(len(part)).to_arrow()
            present |= set(rows["key"].to_pylist())
        return present

    def read(self, columns: Sequence[str], where: str | None = None, rows: int = 1024) -> Iterator[pa.RecordBatch]:
        """The rows, a batch at a time.

        Args:
            columns: Which columns.
            where: A condition; None: all rows.
            rows: Most rows of a batch.
        """
        with one_line(self.uri, where):
            query = self.table.search().select(list(columns))
            if where is not None:
                query = query.where(check_filter(where))
            yield from query.to_batches(rows)

    def add_columns(self, fields: Sequence[pa.Field]) -> None:
        """Add columns that are empty in all rows so far; another writer may have been faster.

        Raises:
            DataError: If another writer has added one of another type.
        """

        def add() -> None:
            present = self.schema
            for field in fields:
                if field.name in present.names and present.field(field.name).type != field.type:
                    kind = present.field(field.name).type
                    raise DataError(
                        f"column {field.name!r} holds {field.type} here, and another writer has just made it {kind}: "
                        "give it that type"
                    )
            if missing := [field for field in fields if field.name not in present.names]:
                self.table.add_columns(missing)

        self._beside_others(add)

    def insert(self, rows: Callable[[pa.Schema], pa.Table]) -> int:
        """Add the rows whose keys are new, all at once or none; returns how many.

        Args:
            rows: Makes them in the table's columns, at most one row a key.
        """

        def merge() -> int:
            # `use_index`: with it Lance does not compare keys with those of commits that it meets.
            builder = self.table.merge_insert("key").when_not_matched_insert_all().use_index(False)
            return int(builder.execute(rows(self.schema)).num_inserted_rows)

        return self._beside_others(merge)

    def delete(self, where: str) -> int:
        """Delete the rows for which a condition holds; returns how many."""
        condition, count = check_filter(where), self.count(where)
        with one_line(self.uri, where):
            self._again(lambda: self.table.delete(condition))
        return count

    def fragments(self) -> tuple[int, int]:
        """Into how many files the rows are split, and how many of those are small."""
        shares = self.table.stats()["fragment_stats"]
        return int(shares["num_fragments"]), int(shares["num_small_fragments"])

    def optimize(self, keep: timedelta) -> None:
        """Join small files, add new rows to the indices, delete versions older than `keep`."""
        self._beside_others(lambda: self.table.optimize(cleanup_older_than=keep))

    def _beside_others(self, change: Callable[[], T]) -> T:
        with one_line(self.uri):
            return self._again(change)

    def _again(self, change: Callable[[], T]) -> T:
        """Change the table; once more whenever another writer was faster."""
        for attempt in range(_TRIES):
            before = self.schema
            try:
                return change()
            except (ValueError, RuntimeError, OSError) as error:
                met = "conflict" in str(error) or self.schema != before
                if not met or attempt + 1 == _TRIES:
                    raise
            time.sleep(random.uniform(0, 0.02 * 2**attempt))
        raise AssertionError  # the last attempt returns or raises


def is_remote(uri: str) -> bool:
    """Whether a place is on an object store."""
    return "://" in uri


def place(path: str | Path) -> str:
    """A place as LanceDB takes it: a folder's whole path, or an address.

    Raises:
        ConfigError: If it is LanceDB's cloud, or empty.
    """
    text = str(path)
    if not text.strip():
        raise ConfigError("the index has no name: give a folder, such as photos.lance")
    if text.startswith("db://"):
        raise ConfigError(f"{text}: an index is a folder or lies on an object store, not in LanceDB's cloud")
    return text if is_remote(text) else str(Path(text).expanduser().absolute())


def _connect(uri: str) -> Any:
    # Every read looks whether another process has written.
    return lancedb().connect(uri, read_consistency_interval=timedelta(0))


def _is_spare(folder: Path) -> bool:
    """Whether a folder holds nothing but what a creation that was stopped may leave."""
    return all(entry.name == f"{TABLE}.lance" for entry in folder.iterdir())


@contextlib.contextmanager
def one_line(uri: str, where: str | None = None) -> Iterator[None]:
    """What LanceDB raises as one error of ours.

    Args:
        uri: The index.
        where: The condition that it reads; an error is then the condition's.

    Raises:
        ConfigError: If the condition is wrong.
        StorageError: If it is anything else.
    """
    try:
        yield
    except EmbedRLError:
        raise
    except OSError as error:
        raise disk_error(error) or StorageError(f"{uri}: {said(error)}: look after that disk") from error
    except (ValueError, RuntimeError, NotImplementedError) as error:
        text = said(error)
        if where is not None:
            raise ConfigError(f"--where {where!r:.200}: {_short(text)}") from error
        text = text.split(", /root/.cargo")[0].split(", /home")[0]  # where in Lance's source
        raise StorageError(f"{uri}: {text}: try again; `embedrl index verify` says what can be read") from error


def _short(text: str) -> str:
    """What Lance says of a condition, without its own columns and the statement that it makes of it."""
    return text.split(", _rowid")[0].removeprefix("Invalid input, ")
