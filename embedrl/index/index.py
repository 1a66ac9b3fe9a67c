"""`embedrl.Index`: items with their vectors, T-CoTs and evidence on disk, added to and searched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedrl.api.items import to_side
from embedrl.data.on_bad import MAX_BAD, OnBadMode
from embedrl.errors import ConfigError, DataError
from embedrl.index.add import BATCH, KEEP, Added, Adder, bad_items, tidy
from embedrl.index.ann import ANN_ROWS, is_indexed, keep_fresh
from embedrl.index.filters import equals_any
from embedrl.index.header import check_format, make_header, wrong_model
from embedrl.index.hits import Hits
from embedrl.index.reranking import rerank_hits
from embedrl.index.search import NPROBES, REFINE, nearest
from embedrl.index.sources import read_source
from embedrl.index.store import Store, is_remote, place
from embedrl.index.verify import Verified, verify
from embedrl.metrics.confidence import ConfidenceGate, check_auto
from embedrl.types import Modality, Side
from embedrl.utils.console import one_line

if TYPE_CHECKING:
    from embedrl.api.embedder import Embedder
    from embedrl.api.reasoner import Reasoner
    from embedrl.inference.reranker import Reranker


class Index:
    """Items that can be searched: a folder that LanceDB reads. `Index.create` and `Index.open` make one.

    A row holds an item's vector, text, T-CoT, evidence, a thumbnail, where its files are, and metadata. There is one
    row for each content: adding an item again changes nothing. The folder knows its model, and takes vectors of no
    other.

    Args:
        store: The table.
        embedder: The model; None: nothing can be added, and vectors alone be searched for.
        reasoner: Writes T-CoTs: of items if the index was made with one, of queries if a search asks for it.

    Raises:
        ConfigError: If the model is not the one that the index was made with.
    """

    def __init__(self, store: Store, embedder: Embedder | None = None, reasoner: Reasoner | None = None) -> None:
        self.store, self.embedder = store, embedder
        self.reasoner = reasoner if reasoner is not None or embedder is None else embedder.reasoner
        check_format(store.header, store.uri)
        if embedder is not None and (wrong := wrong_model(store.header, store.uri, embedder)):
            raise ConfigError(wrong)

    @classmethod
    def create(
        cls,
        path: str | Path,
        embedder: Embedder,
        reasoner: Reasoner | None = None,
        models: dict[str, str] | None = None,
    ) -> Index:
        """Make an index, or open the one that is there if it is of the same model.

        Args:
            path: The folder, such as `photos.lance`, or an address on an object store (`s3://...`).
            embedder: The model.
            reasoner: Writes the T-CoT of every item that is added; None: the Embedder's own, if it has one.
            models: Names under which the command line can load them again: `embedder`, `reasoner`, `style`.

        Raises:
            ConfigError: If another model made the index that is there, or it is one with T-CoTs and this one without,
                or LanceDB is not installed.
            DataError: If something else is at that place.
        """
        uri = place(path)
        reasoner = reasoner if reasoner is not None else embedder.reasoner
        store = Store.open(uri)
        if store is None:
            store = Store.create(uri, embedder.dim, make_header(embedder, reasoner is not None, models or {}))
        index = cls(store, embedder, reasoner)
        store.prepare()
        if store.header["reasoned"] != (reasoner is not None):
            made, given = ("with", "without") if store.header["reasoned"] else ("without", "with")
            raise ConfigError(f"{uri} was made {made} a Reasoner and is asked for {given} one: make another index")
        return index

    @classmethod
    def open(cls, path: str | Path, embedder: Embedder | None = None, reasoner: Reasoner | None = None) -> Index:
        """Open an index.

        Args:
            path: Its folder, or its address.
            embedder: The model that it was made with; needed to add, and to search for more than a vector.
            reasoner: Writes T-CoTs; None: the Embedder's own, if it has one.

        Raises:
            DataError: If there is no index.
            ConfigError: If the model is another, or LanceDB is not installed.
        """
        store = Store.open(place(path))
        if store is None:
            raise DataError(f"{path}: no index there: check the path; `embedrl index build` makes one")
        return cls(store, embedder, reasoner)

    def __len__(self) -> int:
        """Number of rows."""
        return self.store.count()

    def __repr__(self) -> str:
        return f"Index({self.store.uri!r}, rows={len(self)}, dim={self.store.dim})"

    def add(
        self,
        source: Any,
        *,
        text_column: str | None = None,
        image_column: str | None = None,
        on_bad: OnBadMode = "skip",
        max_bad: int = MAX_BAD,
        batch: int = BATCH,
        progress: bool | None = None,
    ) -> Added:
        """Add items; those whose content is there already are left out before they are embedded.

        Each batch is written whole. After a kill at any moment, the same call goes on behind the last batch that was
        written. Several processes may add at once.

        Args:
            source: A folder of pictures and videos; a CSV, TSV, JSON, JSONL or Parquet file; a `datasets.Dataset`; an
                iterable of items (`embedrl.api.to_side`), of dicts of an item's keys and metadata, or of pairs of both.
            text_column: The column of a table with the items' texts; None means `text` if there is one.
            image_column: The column with the pictures or the names of their files, relative to the table's folder; None
                means one with a usual name (image, file_name, path ...). All others are metadata.
            on_bad: An item that cannot be read or embedded: `raise`, or `skip`: left out, counted, and named in
                `skipped.jsonl` in the index's folder.
            max_bad: The most bad items that `skip` leaves out.
            batch: Items that are opened, embedded and written at once.
            progress: Whether to show a bar; None: for many items on a terminal.

        Raises:
            ConfigError: If an option is wrong, or there is no model.
            DataError: If the source cannot be read, its metadata do not fit the index's columns, or an item is bad and
                `on_bad` is `raise`.
            TooManyBadError: If more than `max_bad` items are bad.
        """
        embedder = self._model("add")
        bad = bad_items(self.store, on_bad, max_bad, batch)
        if self.store.header["reasoned"] and self.reasoner is None:
            raise ConfigError(f"{self.store.uri} holds T-CoTs of a Reasoner: open it with one to add to it")
        writer = self.reasoner if self.store.header["reasoned"] else None
        adder = Adder(self.store, embedder, writer, bad, batch)
        for _ in adder.add(read_source(source, text_column, image_column), progress):
            tidy(self.store)
        keep_fresh(self.store)
        return adder.done

    def search(
        self,
        text: str | None = None,
        image: Any = None,
        *,
        video: Any = None,
        vector: NDArray[np.float32] | None = None,
        k: int = 10,
        where: str | None = None,
        reason: bool | Literal["auto"] = False,
        hybrid: bool = False,
        exact: bool = False,
        nprobes: int = NPROBES,
        refine: int = REFINE,
        gate: ConfidenceGate | None = None,
        rerank: int = 0,
        reranker: Reranker | None = None,
    ) -> Hits:
        """The items most alike to a query: a text, a picture, a video or several of them.

        Args:
            text: The query's text.
            image: Its picture: a file's name, or Pillow's.
            video: Its video: a file, a folder of frames, or a list of them.
            vector: In place of all these, the query's unit vector, `[dim]`.
            k: At most this many items.
            where: Only rows for which this SQL condition holds, such as `year > 2020 AND path LIKE 'birds/%'`.
            reason: Let the Reasoner write the query's T-CoT first; `auto`: if the raw query is not sure.
            hybrid: Rank by the words of `text` in the items' texts and T-CoTs, too (reciprocal rank fusion).
            exact: Compare with every vector even if there is an ANN index.
            nprobes: Lists of the ANN index that are looked through: more find more and take longer.
            refine: This many times `k` whole vectors are read behind the ANN index and ranked.
            gate: `auto`: the Δs below which the query is not sure (`ConfidenceGate.below`).
            rerank: Let the reranker read this many of the best items with the query, and put them in its order.
            reranker: The reranker, built.

        Raises:
            ConfigError: If there is no query, no model, no Reasoner or no reranker, a number is below 1, or the
                condition is wrong.
            DataError: If the query cannot be read.
            NonFiniteError: If the query's vector is NaN or infinite.
        """
        given = {"text": text, "image": image, "video": video}
        item = {name: part for name, part in given.items() if part is not None and part != ""}
        if (vector is None) == (not item):
            raise ConfigError("search: give a query (--text, --image), or a vector in place of it")
        if hybrid and not (text and text.strip()):
            raise ConfigError("--hybrid ranks by words, too: give --text")
        check_auto(reason, gate)
        if rerank < 0 or bool(rerank) != (reranker is not None) or (rerank and vector is not None):
            raise ConfigError(
                f"rerank {rerank}: give a number above 0, a reranker (--reranker), and a query for it to read"
            )
        tcot, modality = "", Modality.TEXT
        if vector is None:
            embedder = self._model("search")
            side = to_side(item, embedder.num_frames)
            if side.is_empty:
                raise ConfigError("search: the query is empty: give --text, --image")
            modality = side.modality
            if reason:
                if self.reasoner is None:
                    raise ConfigError("--reason: no Reasoner: open the index with one")
                if gate is None or self._unsure(embedder, side, gate, where, exact):
                    tcot = self.reasoner.reason([side], role="query", progress=False)[0].text
            side = side.with_tcot(tcot)
            vector = embedder.encode([side], role="query", reason=False, progress=False)[0]
        elif reason:
            raise ConfigError("reason: a Reasoner reads texts and pictures, not a vector: give a query")
        words, looked = text if hybrid else None, (exact, nprobes, refine)
        hits = nearest(self.store, np.asarray(vector), max(k, rerank), where, words, *looked)
        if reranker is not None:
            hits = rerank_hits(reranker, side, hits, rerank)[:k]
        shown = one_line(text) if text else Path(str(image)).name if isinstance(image, str | Path) else ""
        return Hits(tuple(hits), shown, tcot, modality)

    def _unsure(self, embedder: Embedder, side: Side, gate: ConfidenceGate, where: str | None, exact: bool) -> bool:
        """Whether a raw query is to think."""
        raw = embedder.encode([side.with_tcot("")], role="query", reason=False, progress=False)[0]
        hits = nearest(self.store, np.asarray(raw), gate.top, where, None, exact)
        return gate.thinks_of([hit.score for hit in hits])

    def delete(self, where: str | None = None, keys: Sequence[str] | None = None) -> int:
        """Delete rows; returns how many.

        Args:
            where: Those for which this SQL condition holds.
            keys: Those with these content keys (`Hit.key`).

        Raises:
            ConfigError: Unless one of both is given, or if the condition is wrong.
        """
        if (where is None) == (keys is None):
            raise ConfigError("delete: give a condition (--where) or keys (--keys), one of both")
        if keys is not None:
            if not keys:
                return 0
            where = equals_any("key", list(keys))
        return self.store.delete(where or "")

    def stats(self) -> dict[str, Any]:
        """What the index holds: rows, columns, model, size."""
        store = self.store
        fragments, small = store.fragments()
        metadata = {field.name: str(field.type) for field in store.schema}
        size = None
        if not is_remote(store.uri):
            size = sum(file.stat().st_size for file in Path(store.uri).rglob("*") if file.is_file())
        return {
            "rows": len(self),
            "modalities": {str(one): count for one in Modality if (count := store.count(f"modality = '{one}'"))},
            "with_tcot": store.count("tcot != ''"),
            "dim": store.dim,
            "model": store.header["class"],
            "fingerprint": store.header["fingerprint"],
            "models": store.header["models"],
            "reasoned": store.header["reasoned"],
            "bytes": size,
            "files": fragments,
            "small_files": small,
            "search": "ANN" if is_indexed(store) else "exact",
            "columns": metadata,
        }

    def compact(self, ann_rows: int = ANN_ROWS) -> None:
        """Join small files, bring indices up to date, delete versions older than an hour; build the ANN index if due.

        Args:
            ann_rows: Build an ANN index from this many rows on.

        Raises:
            ConfigError: If it is below 256.
        """
        if ann_rows < 256:
            raise ConfigError(f"--ann_rows {ann_rows}: give 256 or more, for its centres are drawn from the rows")
        self.store.optimize(KEEP)
        keep_fresh(self.store, ann_rows)

    def verify(self, queries: int = 100, embedder: Embedder | None = None) -> Verified:
        """Read every row: keys, vectors, thumbnails, files; measure the ANN index against exact search.

        Args:
            queries: How many searches the recall is measured over.
            embedder: A model; the report says whether it is the index's.

        Raises:
            ConfigError: If `queries` is below 1.
        """
        if queries < 1:
            raise ConfigError(f"--queries {queries}: give 1 or more")
        wrong = "" if embedder is None else wrong_model(self.store.header, self.store.uri, embedder)
        return verify(self.store, wrong, queries)

    def _model(self, what: str) -> Embedder:
        if self.embedder is None:
            raise ConfigError(f"{what}: the index was opened without a model: Index.open(path, embedder)")
        return self.embedder
