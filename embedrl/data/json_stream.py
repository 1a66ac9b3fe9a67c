"""Reading JSON lists and JSON lines one row at a time, whatever the file's size.

Why not `ijson`: it takes a tenth to a half less processor time (0.25 s for 0.38 s on a list of 114 MB), but it does not
say on which line a row or a mistake is; a NaN, an integer over 64 bits or a number over float64 ends the whole file,
where here the format decides on its row; and 20,000 nested brackets cost it 1 GiB of memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from embedrl.errors import DataError

_CHUNK = 1 << 16  # characters; larger windows take more memory and no less time
_MAX_ROW = 1 << 26
_SPACE = " \t\n\r"


def iter_rows(path: str | Path) -> Iterator[tuple[int, Any]]:
    """The rows of a JSON file.

    Args:
        path: A JSON list (`[{...}, {...}]`) or JSON lines (`{...}` newline `{...}`), UTF-8.

    Yields:
        The line on which a row begins, from 1, and the row.

    Raises:
        DataError: If the file is missing, not UTF-8, not JSON, or cut off; the message names the row, from 0, the
            line and the character in it.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="\n") as file:
            yield from _Reader(file, path).rows()
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: check the path of the data set") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error}): convert the file") from error
    except OSError as error:
        raise DataError(f"cannot read {path} ({error})") from error


class _Reader:
    """A window on the text that grows until the next row is complete."""

    def __init__(self, file: TextIO, path: str | Path) -> None:
        self.file, self.path = file, path
        self.text, self.at, self.ended = "", 0, False
        # The row that is read, where it begins, and the line and character of that place.
        self.row, self.begin, self.line, self.column = 0, 0, 1, 1

    def rows(self) -> Iterator[tuple[int, Any]]:
        decoder = json.JSONDecoder()
        in_list = self._peek() == "["
        self.at += in_list
        while (first := self._peek()) not in ("", "]"):
            if self.row and in_list and first != ",":
                raise self._error(self.at, "a comma is missing between two rows")
            if self.row and in_list:
                self.at += 1
                first = self._peek()
            if first != "{":
                raise self._error(self.at, "a row must be an object {...}")
            value = self._decode(decoder)
            yield self.line, value
            self.row += 1
        if in_list and self._peek() != "]":
            raise self._error(self.at, "the list is not closed: the file is cut off")
        self.at += in_list
        if self._peek():
            raise self._error(self.at, "something follows the end of the data")

    def _decode(self, decoder: json.JSONDecoder) -> Any:
        self._move(self.at)
        while True:
            try:
                value, self.at = decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                # The row may only be incomplete: read on, unless the mistake lies well before the window's end.
                incomplete = error.msg.startswith("Unterminated") or error.pos > len(self.text) - 16
                if self.ended or not incomplete or len(self.text) > _MAX_ROW:
                    raise self._error(error.pos, error.msg) from error
                self._grow(len(self.text))
            except (RecursionError, ValueError) as error:
                raise self._error(self.at, f"a value that cannot be read ({error})") from error
            else:
                return value

    def _peek(self) -> str:
        """The next character that is not white space, or nothing at the end of the file."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self._move(self.at)
            self._grow()

    def _move(self, position: int) -> None:
        """Let the row begin here, and drop the text before it once that is large."""
        self.line, self.column = self._place(position)
        self.begin = position
        if position >= _CHUNK // 2:
            self.text, self.at, self.begin = self.text[position:], self.at - position, 0

    def _grow(self, at_least: int = 0) -> None:
        more = self.file.read(max(_CHUNK, at_least))
        self.ended = not more
        self.text += more

    def _place(self, position: int) -> tuple[int, int]:
        lines = self.text.count("\n", self.begin, position)
        last = self.text.rfind("\n", self.begin, position)
        return self.line + lines, (position - last if lines else self.column + position - self.begin)

    def _error(self, position: int, what: str) -> DataError:
        line, column = self._place(position)
        return DataError(f"{self.path}: row {self.row}, line {line}, character {column}: not JSON: {what}")
