"""What runs in the workers of Ray: reading names of items, Reasoners, Embedders; parcels of items go between them."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from embedrl.data.on_bad import BadSample
from embedrl.errors import DataError, EmbedRLError
from embedrl.index.index import Index
from embedrl.index.make import MadeRows, NewItem, RowMaker
from embedrl.index.models import load_models, load_reasoner
from embedrl.index.sources import SourceItem, read_source
from embedrl.index.store import Store
from embedrl.types import Side

COLUMN = "parcel"
"""The only column of the blocks: pickled parcels."""


@dataclass(frozen=True)
class RayJob:
    """What every worker knows.

    Attributes:
        uri: The index.
        source: The source's whole path.
        name: Its name, for errors.
        models: Names of the models: `embedder`, `reasoner`, `style`.
        text_column: See `Index.add`.
        image_column: See `Index.add`.
        batch: Items of a parcel.
        device: Where actors compute.
    """

    uri: str
    source: str
    name: str
    models: dict[str, str]
    text_column: str | None
    image_column: str | None
    batch: int
    device: str


@dataclass
class Parcel:
    """Some items on their way through the stages.

    Attributes:
        taken: Items of the source that it began with.
        rows: Those that no actor has read yet.
        items: Those that are new, with their T-CoTs.
        made: Those that are embedded.
        known: How many were in the index, or came twice.
        bad: Those that were left out.
        error: What stops the run. Ray would show a worker's traceback; here it stays one line.
    """

    taken: int = 0
    rows: list[SourceItem] = field(default_factory=list)
    items: list[NewItem] | None = None
    made: MadeRows | None = None
    known: int = 0
    bad: list[BadSample] = field(default_factory=list)
    error: EmbedRLError | None = None


def packed(parcels: Sequence[Parcel]) -> pa.Table:
    """Parcels as a block of Ray.

    Args:
        parcels: The parcels.
    """
    contents = [pickle.dumps(parcel, pickle.HIGHEST_PROTOCOL) for parcel in parcels]
    return pa.table({COLUMN: pa.array(contents, pa.large_binary())})


def unpacked(cell: Any) -> Parcel:
    """The parcel in a cell of a block.

    Args:
        cell: An Arrow scalar. Its content comes from a worker of this run.
    """
    parcel: Parcel = pickle.loads(cell.as_buffer())
    return parcel


def read_parcels(_: Any, job: RayJob) -> Iterator[pa.Table]:
    """The items of the source, as parcels.

    Args:
        job: What is read.
    """
    try:
        rows = iter(read_source(job.source, job.text_column, job.image_column).rows)
        while taken := list(islice(rows, job.batch)):
            yield packed([Parcel(len(taken), taken)])
    except EmbedRLError as error:
        yield packed([Parcel(error=error)])


class _Stage:
    """An actor: a model, and a table to look up what is known. If the model cannot be loaded, every parcel says so."""

    def __init__(self, job: RayJob) -> None:
        self.job = job
        self.bad: list[BadSample] = []
        self.maker: RowMaker | None = None
        self.error: EmbedRLError | None = None
        try:
            self.maker = self.load()
        except EmbedRLError as error:
            self.error = error

    def __call__(self, block: pa.Table) -> pa.Table:
        return packed([self._run(unpacked(cell)) for cell in block[COLUMN]])

    def load(self) -> RowMaker:
        raise NotImplementedError

    def work(self, maker: RowMaker, parcel: Parcel) -> None:
        raise NotImplementedError

    def skip(self, error: DataError, row: SourceItem) -> None:
        self.bad.append(BadSample.of(error, self.job.name, row.name))

    def _run(self, parcel: Parcel) -> Parcel:
        parcel.error = parcel.error or self.error
        if parcel.error is not None or self.maker is None:
            return parcel
        self.bad = []
        try:
            if parcel.items is None:
                parcel.items, parcel.known = self.maker.new(parcel.rows)
                parcel.rows = []
            self.work(self.maker, parcel)
        except EmbedRLError as error:
            parcel.error = error
        parcel.bad += self.bad
        return parcel


class Reasons(_Stage):
    """Writes T-CoTs: a stage of Ray Data."""

    def load(self) -> RowMaker:
        """The Reasoner."""
        store = Store.open(self.job.uri)
        assert store is not None
        return RowMaker(store, None, load_reasoner(self.job.models, self.job.device), self.job.name, self.skip)

    def work(self, maker: RowMaker, parcel: Parcel) -> None:
        """Give the items their T-CoTs.

        Args:
            maker: The Reasoner.
            parcel: The items; pixels do not go on, but are read again.
        """
        closed: dict[str, Side] = {item.key: item.side for item in parcel.items or []}
        parcel.items = [
            replace(
                item,
                row=SourceItem(item.row.name, None, item.row.metadata),
                side=closed[item.key].with_tcot(item.side.tcot),
                small=None,
            )
            for item in maker.reason(maker.open(parcel.items or []))
        ]


class Embeds(_Stage):
    """Embeds: a stage of Ray Data."""

    def load(self) -> RowMaker:
        """The Embedder, which must be the index's."""
        names = {"embedder": self.job.models["embedder"]}
        embedder, _ = load_models(names, self.job.device)
        return RowMaker(Index.open(self.job.uri, embedder).store, embedder, None, self.job.name, self.skip)

    def work(self, maker: RowMaker, parcel: Parcel) -> None:
        """Make the items rows.

        Args:
            maker: The Embedder.
            parcel: The items.
        """
        parcel.made = maker.embed(maker.open(parcel.items or []))
        parcel.items = []
