"""How tables are printed."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column


def make_console() -> Console:
    """As wide as the terminal; in a file, wide enough for a table."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def data_set_column() -> Column:
    """The first column of most tables; where it is narrow, names are wrapped instead of cut."""
    return Column("data set", overflow="fold")
