"""An append-only file of records with keys: a stored record is never requested again."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from embedrl.errors import DataError, StorageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
_BEGIN = b'{"key": "'  # of every line: the key is the first field of each dataclass


class RecordStore(ABC, Generic[T]):
    """Records as JSON lines, each a dataclass with a text `key`; of several lines with one key the last counts.

    A line is written in one go and synced before `put` returns, so a killed process loses nothing that it had put. A
    last line without its newline was never finished: it is dropped, and cut off when the file is opened for writing.
    Only the lines' places are kept in memory. One process writes at a time, several may read. Files are joined by
    `cat`, and read by any tool for JSON lines.

    Args:
        path: The file; its folder is made, and the file when it is first opened for writing.
        read_only: Open an existing file to look things up; lines that are added later are not seen.

    Raises:
        DataError: If a finished line is broken, the file is no such store, another process writes to it, or there is
            none to read.
    """

    def __init__(self, path: str | Path, read_only: bool = False) -> None:
        self.path, self.read_only = Path(path), read_only
        self._places: dict[str, tuple[int, int]] = {}
        self._file = -1
        try:
            if read_only:
                self._file = os.open(self.path, os.O_RDONLY)
            else:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._end = self._index()
            if not read_only:
                os.ftruncate(self._file, self._end)
        except OSError as error:
            self.close()
            raise DataError(f"{self.path}: {_why_not_opened(error)}") from error
        except DataError:
            self.close()
            raise

    def __contains__(self, key: object) -> bool:
        """Whether a record with this key was put."""
        return key in self._places

    def __len__(self) -> int:
        """Number of keys."""
        return len(self._places)

    def __enter__(self) -> Self:
        """The journal itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    @abstractmethod
    def record(self, row: dict[str, Any]) -> T:
        """The record that a line's object holds."""

    @abstractmethod
    def problem(self, row: dict[str, Any]) -> str:
        """What is wrong with a line's object besides its key; empty if nothing."""

    def get(self, key: str) -> T | None:
        """The record with this key; None if it was never put."""
        place = self._places.get(key)
        return None if place is None else self._read(*place)

    def put(self, record: T) -> None:
        """Append a record; it is on the disk when this returns.

        Raises:
            DataError: If the journal is open for reading only.
            StorageError: If the disk refuses; the file is as it was.
        """
        if self.read_only or self._file < 0:
            raise DataError(f"{self.path}: the journal is not open for writing")
        row = asdict(record)
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        try:
            if os.write(self._file, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file)
        except OSError as error:
            with suppress(OSError):  # half a line: cut off now, or when the file is opened again
                os.ftruncate(self._file, self._end)
            raise StorageError(
                f"{self.path}: cannot be written ({error.strerror}): make room on that disk, then start again: what "
                "was written before is kept"
            ) from error
        self._places[row["key"]] = (self._end, len(line))
        self._end += len(line)

    def records(self) -> Iterator[T]:
        """The records that count, in the order in which they were written."""
        for place in sorted(self._places.values()):
            yield self._read(*place)

    def close(self) -> None:
        """Close the file and let other processes write; closing twice does nothing."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _read(self, start: int, length: int) -> T:
        return self.record(json.loads(os.pread(self._file, length, start)))

    def _index(self) -> int:
        """Note every finished line's place; returns where the last one ends."""
        end = 0
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(0)
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    self._check_unfinished(line)
                    break
                self._places[self._key(line, number)] = (end, len(line))
                end += len(line)
        return end

    def _check_unfinished(self, line: bytes) -> None:
        """Refuse another kind of file, before its only line is taken for an unfinished one and cut off."""
        if line[: len(_BEGIN)] != _BEGIN[: len(line)]:
            raise DataError(
                f"{self.path}: the last line has no newline, and is none of a journal's, which begin with "
                f"{_BEGIN.decode()}: give the path of a journal, or end the line"
            )

    def _key(self, line: bytes, number: int) -> str:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # not JSON, or not UTF-8
            row = None
        problem = "not a JSON object with a text 'key'"
        if isinstance(row, dict) and isinstance(row.get("key"), str):
            problem = self.problem(row)
        if problem:
            raise DataError(f"{self.path}: line {number}: {problem}: mend or delete the line")
        return str(row["key"])


def _why_not_opened(error: OSError) -> str:
    if isinstance(error, BlockingIOError):
        return "another process writes to it: wait for it, or give another file"
    if isinstance(error, FileNotFoundError):
        return "no such journal: check the path, or write it with embedrl annotate"
    return f"cannot be opened as a journal ({error.strerror}): give a file"
