"""How tables are printed."""

from __future__ import annotations

import sys
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column

_TURNS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # change the direction of writing


def one_line(text: object) -> str:
    """Text for a terminal in one line: what would steer it (colours, cursor, direction of writing) is shown escaped.

    >>> one_line("red:" + chr(27) + "[31m") == "red:" + chr(92) + "x1b[31m"
    True
    """
    return "".join(_shown(character) for character in " ".join(str(text).split()))


def tell(text: object) -> None:
    """Say something on stderr, in one line."""
    sys.stderr.write(f"embedrl: {one_line(text)}\n")
    sys.stderr.flush()


def _shown(character: str) -> str:
    if unicodedata.category(character) in ("Cc", "Cs") or character in _TURNS:
        return character.encode("unicode_escape").decode()
    return character


def make_console() -> Console:
    """As wide as the terminal; in a file, wide enough for a table."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)


def data_set_column() -> Column:
    """The first column of most tables; where it is narrow, names are wrapped instead of cut."""
    from rich.table import Column

    return Column("data set", overflow="fold")
