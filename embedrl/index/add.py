"""Items into an index: a batch at a time, each written whole; what is there already is not embedded again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from embedrl.api.items import to_side
from embedrl.data.on_bad import OnBad
from embedrl.data.opened import open_side
from embedrl.errors import DataError, NonFiniteError
from embedrl.index.columns import metadata_arrays
from embedrl.index.rows import evidence_of_tcot, files_of, relative, stored_item, thumbnail
from embedrl.index.sources import ItemSource, SourceItem
from embedrl.index.store import Store
from embedrl.tcot.store import content_hash
from embedrl.types import Side
from embedrl.utils.progress_bar import progress_bar

if TYPE_CHECKING:
    from embedrl.api.embedder import Embedder
    from embedrl.api.reasoner import Reasoner


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

    def __str__(self) -> str:
        bad = ", ".join(f"{cause} {count}" for cause, count in self.skipped.items())
        return (
            f"{self.added:,} added, {self.embedded:,} embedded, {self.known:,} known already, "
            f"{sum(self.skipped.values()):,} skipped{f' ({bad})' if bad else ''} in {self.seconds:.1f} s"
        )


@dataclass
class _Item:
    """An item on its way.

    Attributes:
        row: Where it comes from.
        side: What it is.
        key: Its content.
        stored: The same as names of files.
        small: Its thumbnail.
    """

    row: SourceItem
    side: Side
    key: str
    stored: dict[str, Any]
    small: bytes | None = None


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
        started = time.monotonic()
        rows = iter(source.rows)
        with progress_bar("index", source.total or 0, False if source.total is None else progress) as advance:
            while taken := list(islice(rows, self.batch)):
                self._add(taken, source.name)
                self.done.seconds = time.monotonic() - started
                advance(len(taken))
                yield self.done

    def _add(self, rows: list[SourceItem], source: str) -> None:
        items = self._new(rows, source)
        fresh = {item.key: item for item in items}
        arrays, fields = metadata_arrays(
            [item.row.metadata for item in fresh.values()],
            self.store.schema,
            [f"{source}/{item.row.name}" for item in fresh.values()],
        )
        opened = [item for item in fresh.values() if self._open(item, source)]
        opened = self._reason(opened, source)
        opened, vectors = self._embed(opened, source)
        if not opened:
            return
        place = {key: i for i, key in enumerate(fresh)}
        taken = pa.array([place[item.key] for item in opened])
        self.store.add_columns(fields)
        self.done.embedded += len(opened)
        values = self._values(opened, vectors) | {name: array.take(taken) for name, array in arrays.items()}
        self.done.added += self.store.insert(lambda schema: _table(values, schema, len(opened)))

    def _new(self, rows: list[SourceItem], source: str) -> list[_Item]:
        """The good items whose content is new, each content once."""
        items: dict[str, _Item] = {}
        good = 0
        for row in rows:
            try:
                if isinstance(row.item, DataError):
                    raise row.item
                side = to_side(row.item, getattr(self.embedder, "num_frames", 8))
                key = content_hash(side)
            except DataError as error:
                self._skip(error, source, row)
                continue
            good += 1
            items.setdefault(key, _Item(row, side, key, stored_item(side)))
        known = self.store.known(list(items))
        self.done.known += good - len(items) + len(known)
        return [item for key, item in items.items() if key not in known]

    def _open(self, item: _Item, source: str) -> bool:
        try:
            item.side = open_side(item.side, f"{source}/{item.row.name}")
            item.small = thumbnail(item.side)
        except DataError as error:
            self._skip(error, source, item.row)
            return False
        return True

    def _reason(self, items: list[_Item], source: str) -> list[_Item]:
        """Have the Reasoner write what T-CoTs are missing."""
        bare = [item for item in items if not item.side.tcot.strip()]
        if self.reasoner is None or not bare:
            return items
        names = [f"{source}/{item.row.name}" for item in bare]
        written = self.reasoner.write([item.side for item in bare], role="target", names=names, on_bad=self.bad.mode)
        left = {item.key: item for item in items}
        for item, reply in zip(bare, written, strict=True):
            if isinstance(reply, str):
                item.side = item.side.with_tcot(reply)
            else:
                self._skip(DataError(reply.message, reply.cause), source, left.pop(item.key).row)
        return list(left.values())

    def _embed(self, items: list[_Item], source: str) -> tuple[list[_Item], np.ndarray[Any, np.dtype[np.float32]]]:
        if not items:
            return [], np.zeros((0, self.store.dim), np.float32)
        encoded = self.embedder.encode(
            [item.side for item in items], role="target", reason=False, on_bad="skip", progress=False
        )
        for position, message in encoded.bad.items():
            self._skip(DataError(message), source, items[position].row)
        vectors = np.ascontiguousarray(encoded.vectors.numpy(), np.float32)
        kept = [items[position] for position in encoded.kept]
        for item, vector in zip(kept, vectors, strict=True):
            if not np.isfinite(vector).all() or abs(float(np.linalg.norm(vector)) - 1) > 1e-3:
                raise NonFiniteError(f"{source}/{item.row.name}: its vector is not of length 1: the model is broken")
        return kept, vectors

    def _skip(self, error: DataError, source: str, row: SourceItem) -> None:
        bad = self.bad.skip(error, source, row.name)
        self.done.skipped[bad.cause] = self.done.skipped.get(bad.cause, 0) + 1

    def _values(self, items: list[_Item], vectors: np.ndarray[Any, np.dtype[np.float32]]) -> dict[str, Any]:
        """The columns that every index has."""
        files = [files_of(item.stored) for item in items]
        now = datetime.now(UTC)
        return {
            "key": [item.key for item in items],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), self.store.dim),
            "text": [item.side.text for item in items],
            "modality": [str(item.side.modality) for item in items],
            "path": [item.row.name for item in items],
            "item": [json.dumps(item.stored, ensure_ascii=False) for item in items],
            "files": files,
            "relative_files": [relative(names, self.store.uri) for names in files],
            "tcot": [item.side.tcot for item in items],
            "evidence": [json.dumps(evidence_of_tcot(item.side)) for item in items],
            "thumbnail": [item.small for item in items],
            "added_at": [now] * len(items),
        }


def _table(values: Mapping[str, Any], schema: pa.Schema, rows: int) -> pa.Table:
    """Rows in a table's columns; what they do not say is empty."""
    columns = []
    for name, kind in zip(schema.names, schema.types, strict=True):
        column = values.get(name, pa.nulls(rows, kind))
        columns.append(column if isinstance(column, pa.Array) else pa.array(column, kind))
    return pa.Table.from_arrays(columns, schema=schema)
