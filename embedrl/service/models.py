"""What a service computes with: the index, its Embedder, and perhaps a Reasoner and a reranker, in one thread."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedrl.errors import ConfigError, DataError
from embedrl.index.hits import Hit
from embedrl.index.index import Index
from embedrl.index.search import nearest
from embedrl.models.exported import matryoshka_dims
from embedrl.types import Side

if TYPE_CHECKING:
    from PIL.Image import Image

    from embedrl.inference.reranker import Reranker


class Candidate(NamedTuple):
    """What goes through the Reranker: a query and one candidate."""

    query: Side
    candidate: Side


@dataclass
class ServedModels:
    """The models of a service. All but `search` computes, and belongs into the one thread that does so.

    Attributes:
        index: The index, opened with its Embedder.
        reranker: Reads query and candidate together; None if there is none.
    """

    index: Index
    reranker: Reranker | None = None

    def __post_init__(self) -> None:
        """Check that there is a model.

        Raises:
            ConfigError: If the index was opened without one.
        """
        if self.index.embedder is None:
            raise ConfigError("serve: the index was opened without a model")

    @cached_property
    def dims(self) -> list[int]:
        """The lengths of vectors that the model was trained to give (Matryoshka), its own first."""
        assert self.index.embedder is not None
        dim = self.index.store.dim
        return [dim, *(length for length in matryoshka_dims(self.index.embedder.backbone) if length != dim)]

    def run(self, kind: tuple[str, str], work: list[Any]) -> Sequence[Any]:
        """One batch of a lane.

        Args:
            kind: `("embed", role)`, `("reason", role)` or `("rerank", "")`.
            work: Sides; for `rerank`, pairs of a query and a candidate.

        Returns:
            Vectors, T-CoTs or scores; in place of a bad item's, its `DataError`.
        """
        what, role = kind
        if what == "rerank":
            return self._scores(work)
        if what == "reason":
            return self._reasoned(work, role)
        return self._vectors(work, role)

    def _vectors(self, sides: list[Side], role: str) -> list[NDArray[np.float32] | DataError]:
        assert self.index.embedder is not None
        encoded = self.index.embedder.encode(sides, role=role, reason=False, on_bad="skip", progress=False)  # type: ignore[call-overload]
        results: list[Any] = [DataError(encoded.bad.get(i, "it cannot be read")) for i in range(len(sides))]
        for place, vector in zip(encoded.kept, encoded.vectors.numpy(), strict=True):
            results[place] = vector
        return results

    def _reasoned(self, sides: list[Side], role: str) -> list[str | DataError]:
        assert self.index.reasoner is not None
        replies = self.index.reasoner.write(sides, role=role, on_bad="skip")
        return [reply if isinstance(reply, str) else DataError(reply.message, reply.cause) for reply in replies]

    def _scores(self, pairs: list[Candidate]) -> list[float]:
        assert self.reranker is not None
        scores: list[float] = []
        start = 0
        while start < len(pairs):  # those of one query stand together
            query = pairs[start].query
            end = next((i for i in range(start, len(pairs)) if pairs[i].query is not query), len(pairs))
            scores += self.reranker.score(query, [pair.candidate for pair in pairs[start:end]], "query").tolist()
            start = end
        return scores

    def search(
        self, vector: NDArray[np.float32], k: int, where: str | None = None, words: str | None = None
    ) -> list[Hit]:
        """The best rows of the index; safe in any thread.

        Args:
            vector: The query's unit vector.
            k: At most this many.
            where: Only rows for which this SQL condition holds.
            words: Rank by these words, too.

        Raises:
            ConfigError: If the condition is wrong.
        """
        return nearest(self.index.store, vector, k, where, words)


def as_data_url(image: Image | None, content: bytes | None = None) -> str | None:
    """A picture as a page shows it without asking again; None of none.

    Args:
        image: The picture.
        content: Its file, if there is one already (WebP or JPEG).
    """
    if content is not None:
        kind = "webp" if content[:4] == b"RIFF" else "png" if content[:4] == b"\x89PNG" else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    if image is None:
        return None
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
