"""Items of a source made into rows of an index: the new ones are opened, reasoned about and embedded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from embedrl.api.items import to_side
from embedrl.data.on_bad import OnBadMode
from embedrl.data.opened import open_side
from embedrl.data.video import NUM_FRAMES
from embedrl.errors import DataError, NonFiniteError
from embedrl.index.columns import metadata_arrays, own_fields
from embedrl.index.rows import evidence_of_tcot, files_of, relative, stored_item, thumbnail
from embedrl.index.sources import SourceItem
from embedrl.index.store import Store
from embedrl.tcot.store import content_hash
from embedrl.types import Side

if TYPE_CHECKING:
    from embedrl.api.embedder import Embedder
    from embedrl.api.reasoner import Reasoner

Vectors = np.ndarray[Any, np.dtype[np.float32]]


@dataclass
class NewItem:
    """An item on its way into the index.

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


class MadeRows(NamedTuple):
    """Embedded items, ready to be written.

    Attributes:
        table: The columns that every index has.
        metadata: The metadata of each row.
        names: A name of each row for errors.
    """

    table: pa.Table
    metadata: Sequence[Mapping[str, Any]]
    names: Sequence[str]


class RowMaker:
    """Makes rows of the items of a source; nothing is written.

    Args:
        store: The table, which says what is known already.
        embedder: The model; None where `embed` is not called.
        reasoner: Writes the T-CoTs of items that bring none; None: they have none.
        source: Name of the source, for errors.
        skip: What is done about a bad item; it raises, or the item is left out.
        mode: `raise` if `skip` raises, so that the Reasoner stops at the first bad item, too.
    """

    def __init__(
        self,
        store: Store,
        embedder: Embedder | None,
        reasoner: Reasoner | None,
        source: str,
        skip: Callable[[DataError, SourceItem], None],
        mode: OnBadMode = "skip",
    ) -> None:
        self.store, self.embedder, self.reasoner, self.source = store, embedder, reasoner, source
        self.skip, self.mode = skip, mode

    def new(self, rows: Sequence[SourceItem]) -> tuple[list[NewItem], int]:
        """The good items whose content is new, each content once; and how many were known, or came twice.

        Args:
            rows: Items of the source.

        Raises:
            DataError: If their metadata do not fit the index's columns.
        """
        items: dict[str, NewItem] = {}
        good = 0
        for row in rows:
            try:
                if isinstance(row.item, DataError):
                    raise row.item
                side = to_side(row.item, getattr(self.embedder, "num_frames", NUM_FRAMES))
                key = content_hash(side)
            except DataError as error:
                self.skip(error, row)
                continue
            good += 1
            items.setdefault(key, NewItem(row, side, key, stored_item(side)))
        known = self.store.known(list(items))
        fresh = [item for key, item in items.items() if key not in known]
        metadata_arrays([item.row.metadata for item in fresh], self.store.schema, [self._name(item) for item in fresh])
        return fresh, good - len(items) + len(known)

    def open(self, items: Sequence[NewItem]) -> list[NewItem]:
        """The items that can be opened, with their pixels and thumbnails."""
        opened = []
        for item in items:
            try:
                item.side = open_side(item.side, self._name(item))
                item.small = thumbnail(item.side)
            except DataError as error:
                self.skip(error, item.row)
            else:
                opened.append(item)
        return opened

    def reason(self, items: list[NewItem]) -> list[NewItem]:
        """The items with the T-CoTs that were missing, if there is a Reasoner.

        Args:
            items: Opened items.
        """
        bare = [item for item in items if not item.side.tcot.strip()]
        if self.reasoner is None or not bare:
            return items
        names = [self._name(item) for item in bare]
        written = self.reasoner.write([item.side for item in bare], role="target", names=names, on_bad=self.mode)
        left = {item.key: item for item in items}
        for item, reply in zip(bare, written, strict=True):
            if isinstance(reply, str):
                item.side = item.side.with_tcot(reply)
            else:
                self.skip(DataError(reply.message, reply.cause), left.pop(item.key).row)
        return list(left.values())

    def embed(self, items: Sequence[NewItem]) -> MadeRows | None:
        """The items' rows; None if there are none.

        Args:
            items: Opened items.

        Raises:
            NonFiniteError: If a vector is NaN, infinite or not of length 1.
        """
        assert self.embedder is not None
        if not items:
            return None
        encoded = self.embedder.encode(
            [item.side for item in items], role="target", reason=False, on_bad="skip", progress=False
        )
        for position, message in encoded.bad.items():
            self.skip(DataError(message), items[position].row)
        vectors = np.ascontiguousarray(encoded.vectors.numpy(), np.float32)
        kept = [items[position] for position in encoded.kept]
        for item, vector in zip(kept, vectors, strict=True):
            if not np.isfinite(vector).all() or abs(float(np.linalg.norm(vector)) - 1) > 1e-3:
                raise NonFiniteError(f"{self._name(item)}: its vector is not of length 1: the model is broken")
        if not kept:
            return None
        return MadeRows(
            self._table(kept, vectors), [item.row.metadata for item in kept], [self._name(item) for item in kept]
        )

    def _name(self, item: NewItem) -> str:
        return f"{self.source}/{item.row.name}"

    def _table(self, items: Sequence[NewItem], vectors: Vectors) -> pa.Table:
        files = [files_of(item.stored) for item in items]
        values: dict[str, Any] = {
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
            "added_at": [datetime.now(UTC)] * len(items),
        }
        return pa.table(values, pa.schema(own_fields(self.store.dim)))


def write_rows(store: Store, made: MadeRows) -> int:
    """Write rows whose keys are new, all at once or none; returns how many.

    Args:
        store: The table.
        made: The rows, at most one a key.

    Raises:
        DataError: If metadata do not fit the table's columns.
        StorageError: If the disk refuses.
    """
    arrays, fields = metadata_arrays(made.metadata, store.schema, made.names)
    store.add_columns(fields)
    count = made.table.num_rows
    values = {name: made.table[name] for name in made.table.column_names} | arrays

    def in_columns_of(schema: pa.Schema) -> pa.Table:  # what a row does not say is empty
        columns = [values.get(field.name, pa.nulls(count, field.type)) for field in schema]
        return pa.Table.from_arrays(columns, schema=schema)

    return store.insert(in_columns_of)
