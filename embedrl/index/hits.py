"""What a search returns: the best items with their scores, evidence and metadata, and a picture of them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

from embedrl.index.rows import open_thumbnail
from embedrl.types import Modality

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Hit:
    """One item that a search returns.

    Attributes:
        score: Cosine with the query, -1..1; of a hybrid search the sum of 1 / (60 + rank) over both rankings.
        key: The item's content key, as `Index.delete` takes it.
        item: The item, as `Embedder.encode` takes it: a dict of `text`, `images`, `page`, `video`.
        path: Its name in the source that it came from.
        modality: What it is.
        tcot: Its T-CoT; empty if there is none.
        evidence: What the T-CoT points at: `boxes` (0..1000 of the first picture), `frames` (from 1), `keywords`.
        metadata: Its other columns; what is empty is left out.
        thumbnail_file: The file of `thumbnail`, a JPEG.
        reranked: How surely a reranker takes the item for what the query asks for, 0..1; None if none has read it.
    """

    score: float
    key: str
    item: dict[str, Any]
    path: str = ""
    modality: Modality = Modality.TEXT
    tcot: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    thumbnail_file: bytes | None = field(default=None, repr=False)
    reranked: float | None = None

    @property
    def text(self) -> str:
        """The item's text."""
        return str(self.item.get("text", ""))

    @property
    def thumbnail(self) -> Image | None:
        """A small picture of the item; None of a text.

        Raises:
            DataError: If it is broken.
        """
        return None if self.thumbnail_file is None else open_thumbnail(self.thumbnail_file, self.path)


@dataclass(frozen=True)
class Hits(Sequence[Hit]):
    """The items that a search returns, the best first. Notebooks show them as `show()` draws them.

    Attributes:
        hits: The items.
        query: What was searched for, in words.
        tcot: The T-CoT that the Reasoner wrote of the query; empty if there is none.
        query_modality: What the query was.
    """

    hits: tuple[Hit, ...]
    query: str = ""
    tcot: str = ""
    query_modality: Modality = Modality.TEXT

    @overload
    def __getitem__(self, index: int) -> Hit: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Hit]: ...

    def __getitem__(self, index: int | slice) -> Hit | Sequence[Hit]:
        """The hit at a rank from 0."""
        return self.hits[index]

    def __len__(self) -> int:
        """Number of hits."""
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        """The hits, the best first."""
        return iter(self.hits)

    def show(self) -> Image:
        """A picture: each hit with its score, its boxes and what its T-CoT answers.

        Raises:
            DataError: If a thumbnail is broken.
        """
        from embedrl.index.drawing import draw_hits

        return draw_hits(self)

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        file = io.BytesIO()
        self.show().save(file, "PNG")
        return file.getvalue()
