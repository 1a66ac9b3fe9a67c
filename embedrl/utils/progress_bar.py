"""Progress on stderr, with the rate and the time left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class Rate(ProgressColumn):
    """Items a second."""

    def render(self, task: Task) -> Text:
        """The rate, or a stroke as long as it is not known."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "-/s")


@contextmanager
def progress_bar(title: str, total: int, show: bool | None = None, least: int = 64) -> Iterator[Callable[[int], None]]:
    """A bar that is advanced by what is yielded.

    Args:
        title: Its label.
        total: Number of items.
        show: Whether to show it; None: if there are at least `least` items, and stderr is a terminal.
        least: See `show`.

    Yields:
        A function that takes the number of items that were done since its last call.
    """
    shown = total >= least and sys.stderr.isatty() if show is None else show
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TextColumn("left"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not shown) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.advance(task, done)
