"""Items into an index: a batch at a time, each written whole; what is there already is not embedded again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from embedrl.data.on_bad import FILE, OnBad, OnBadMode
from embedrl.errors import ConfigError, DataError
from embedrl.index.make import RowMaker, write_rows
from embedrl.index.sources import ItemSource, SourceItem
from embedrl.index.store import Store, is_remote
from embedrl.utils.progress_bar import progress_bar

if TYPE_CHECKING:
    from embedrl.api.embedder import Embedder
    from embedrl.api.reasoner import Reasoner

BATCH = 64
"""Items that are opened, embedded and written at once: what a kill costs at most."""

KEEP = timedelta(hours=1)
"""Versions of a table that are younger stay, for readers may still read them."""

_SMALL_FILES = 256  # with this many, and as many rows in small files as in large ones, files are joined


@dataclass
class Added:
    """What an add did.

    Attributes:
        added: Rows that it wrote.
        embedded: Items that it embedded; more than `added` if another writer was faster.
        known: Items that were in the index, or came twice.
        skipped: Bad items by cause.
        seconds: Time by the clock.
    """

    added: int = 0
    embedded: int = 0
    known: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def skip(self, cause: str) -> None:
        """Count a bad item."""
        self.skipped[cause] = self.skipped.get(cause, 0) + 1

    def __str__(self) -> str:
        bad = ", ".join(f"{cause} {count}" for cause, count in self.skipped.items())
        return (
            f"{self.added:,} added, {self.embedded:,} embedded, {self.known:,} known already, "
            f"{sum(self.skipped.values()):,} skipped{f' ({bad})' if bad else ''} in {self.seconds:.1f} s"
        )


class Adder:
    """Adds the items of one source.

    Args:
        store: The table.
        embedder: The model that the index was made with.
        reasoner: Writes the T-CoTs of items that bring none; None: they have none.
        bad: What is done about bad items.
        batch: Items that are opened, embedded and written at once.
    """

    def __init__(self, store: Store, embedder: Embedder, reasoner: Reasoner | None, bad: OnBad, batch: int) -> None:
        self.store, self.embedder, self.reasoner, self.bad, self.batch = store, embedder, reasoner, bad, batch
        self.done = Added()

    def add(self, source: ItemSource, progress: bool | None = None) -> Iterator[Added]:
        """Add all items; yields what was done so far after each batch that is on the disk.

        Args:
            source: The items.
            progress: Whether to show a bar; None: for many items on a terminal.

        Raises:
            DataError: If an item is bad and that stops the run, or metadata do not fit the index's columns.
            TooManyBadError: If too many are bad.
            NonFiniteError: If a vector is NaN or infinite.
            StorageError: If the disk refuses.
        """

        def skip(error: DataError, row: SourceItem) -> None:
            self.done.skip(self.bad.skip(error, source.name, row.name).cause)

        started = time.monotonic()
        maker = RowMaker(self.store, self.embedder, self.reasoner, source.name, skip, self.bad.mode)
        rows = iter(source.rows)
        with progress_bar("index", source.total or 0, False if source.total is None else progress) as advance:
            while taken := list(islice(rows, self.batch)):
                items, known = maker.new(taken)
                self.done.known += known
                made = maker.embed(maker.reason(maker.open(items)))
                if made is not None:
                    self.done.embedded += made.table.num_rows
                    self.done.added += write_rows(self.store, made)
                self.done.seconds = time.monotonic() - started
                advance(len(taken))
                yield self.done


def bad_items(store: Store, on_bad: OnBadMode, max_bad: int, batch: int) -> OnBad:
    """What an add does about bad items, once its options are known to be right.

    Args:
        store: The table; `skipped.jsonl` lies in its folder.
        on_bad: `raise` or `skip`.
        max_bad: The most bad items that `skip` leaves out.
        batch: Items that are embedded at once.

    Raises:
        ConfigError: If an option is wrong.
    """
    if batch < 1:
        raise ConfigError(f"--batch {batch}: give 1 or more")
    if on_bad not in ("raise", "skip"):
        raise ConfigError(f"--on_bad {on_bad!r}: give raise or skip")
    bad = OnBad(on_bad, max_bad, "--")
    if not is_remote(store.uri):
        bad.keep(Path(store.uri, FILE), first=False)
    return bad


def tidy(store: Store, rows_at_once: int = BATCH) -> None:
    """Join small files before there are too many, seldom enough that rows are not copied over and over.

    Args:
        store: The table.
        rows_at_once: Rows of a write.
    """
    _, small = store.fragments()
    if small >= _SMALL_FILES and small * rows_at_once * 2 >= store.count():
        store.optimize(KEEP)
