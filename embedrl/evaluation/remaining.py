"""What is left of a data set while bad sides turn up: when they are hashed, shown to the Reasoner, or embedded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from embedrl.data.left_out import without
from embedrl.data.on_bad import BadSample, OnBad
from embedrl.evaluation.tcots import TCoTs
from embedrl.evaluation.vectors import VectorCache
from embedrl.inference.tcot_writer import Key, places_of, with_tcots
from embedrl.metrics.ranking import Blocks
from embedrl.types import RetrievalTask
from embedrl.utils.ragged import cat_rows

Bad = dict[int, BadSample] | None
"""Where bad sides are put, by position; None stops at the first."""


@dataclass
class Remaining:
    """A data set without the sides that turned out to be bad; every process holds the same, and all call together.

    Attributes:
        task: The data set.
        bad: Where bad sides are counted over the whole run and named, up to its limit.
        hashes: Content hashes of its queries and candidates, once they are known.
        skipped: What was left out, by cause.
        places: The positions of its queries and candidates in the whole data set.
    """

    task: RetrievalTask
    bad: OnBad
    hashes: tuple[list[str], list[str]] = ([], [])
    skipped: Counter[str] = field(default_factory=Counter)
    places: tuple[list[int], list[int]] = ([], [])

    def __post_init__(self) -> None:
        """Number the sides."""
        self.places = list(range(len(self.task.queries))), list(range(len(self.task.candidates)))

    def hash(self, vectors: VectorCache) -> None:
        """Hash the sides' contents.

        Raises:
            DataError: If a file is missing and the run stops at bad sides, or nothing is left.
            TooManyBadError: If the run has too many bad sides.
        """
        bad = self._places(), self._places()
        queries = vectors.hashes(self.task.queries, f"{self.task.name}/query", bad[0])
        candidates = vectors.hashes(self.task.candidates, f"{self.task.name}/candidate", bad[1])
        self.hashes = queries, candidates
        self._drop(bad[0], bad[1])

    def reason(self, writer: TCoTs, thinking: Collection[int] | None = None) -> dict[str, int]:
        """Add T-CoTs; returns what `TCoTs.fill` counts.

        Args:
            writer: Where they come from.
            thinking: See `TCoTs.fill`.

        Raises:
            DataError, TooManyBadError: As `hash`, for sides that cannot be shown.
        """
        unshown: dict[Key, BadSample] | None = {} if self.bad.mode == "skip" else None
        self.task, counts = writer.fill(self.task, unshown, thinking)
        if unshown:
            queries, candidates = places_of(self.task, unshown)
            self._drop(
                {i: unshown[key] for i, key in queries.items()}, {i: unshown[key] for i, key in candidates.items()}
            )
        return counts

    def without_tcots(self) -> None:
        """Take T-CoTs away."""
        self.task = with_tcots(self.task, {})

    def embed(self, vectors: VectorCache) -> tuple[Blocks, Blocks]:
        """The vectors of the queries and of the candidates.

        Raises:
            DataError, TooManyBadError: As `hash`, for sides that cannot be rendered or processed.
        """
        bad, task, name = (self._places(), self._places()), self.task, self.task.name
        queries = vectors.embed(task.queries, self.hashes[0], f"{name}/query", bad[0], self.places[0])
        candidates = vectors.embed(task.candidates, self.hashes[1], f"{name}/candidate", bad[1], self.places[1])
        good = [i for i in range(len(task.queries)) if i not in (bad[0] or {})]
        kept = set(self._drop(bad[0], bad[1]))
        if len(kept) == len(good):
            return queries, candidates
        rows = [row for row, i in enumerate(good) if i in kept]  # others have no relevant candidate left
        return Blocks(len(rows), lambda: [cat_rows(list(queries.read()))[rows]]), candidates

    def _places(self) -> Bad:
        return {} if self.bad.mode == "skip" else None

    def _drop(self, queries: Mapping[int, BadSample] | None, candidates: Mapping[int, BadSample] | None) -> list[int]:
        """Leave out bad sides; returns the positions that the remaining queries had."""
        queries, candidates = queries or {}, candidates or {}
        bad = [*queries.values(), *candidates.values()]
        if not bad:
            return list(range(len(self.task.queries)))
        self.bad.add(bad)
        self.bad.check()
        self.skipped.update(one.cause for one in bad)
        left = without(self.task, queries, candidates)
        self.task = left.task
        if left.unanswerable:
            self.skipped["query without a relevant candidate"] += left.unanswerable
        kept = left.queries, left.candidates
        self.hashes = [self.hashes[0][i] for i in kept[0]], [self.hashes[1][i] for i in kept[1]]
        self.places = [self.places[0][i] for i in kept[0]], [self.places[1][i] for i in kept[1]]
        return left.queries
