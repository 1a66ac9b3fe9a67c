"""How tables are printed."""

from __future__ import annotations

import sys
import unicodedata
from typing import TYPE_CHECKING, Any

from embedrl.utils.secrets import hide

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column
    from rich.text import Text

_TURNS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # change the direction of writing


def one_line(text: object) -> str:
    """Text for a terminal in one line; see `escaped`."""
    return escaped(" ".join(str(text).split()))


def escaped(text: str) -> str:
    """Text for a terminal: what would steer it (colours, cursor, direction of writing) is shown, not done.

    >>> escaped("red:" + chr(27) + "[31m") == "red:" + chr(92) + "x1b[31m"
    True
    """
    return "".join(map(_shown, text))


def tell(text: object) -> None:
    """Say something on stderr, in one line and without secrets."""
    sys.stderr.write(f"embedrl: {one_line(hide(str(text)))}\n")
    sys.stderr.flush()


def _shown(character: str) -> str:
    if character not in "\n\t" and (unicodedata.category(character) in ("Cc", "Cs") or character in _TURNS):
        return character.encode("unicode_escape").decode()
    return character


def make_console() -> Console:
    """As wide as the terminal; in a file, wide enough for a table. Names in it do not steer the terminal."""
    from rich.console import Console

    class Escaping(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(escaped(text), **options)

    console = Escaping()
    return console if console.is_terminal else Escaping(width=160)


def data_set_column() -> Column:
    """The first column of most tables; where it is narrow, names are wrapped instead of cut."""
    from rich.table import Column

    return Column("data set", overflow="fold")
