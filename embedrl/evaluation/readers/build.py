"""Collects the queries and candidates of a data set, and what could not be used."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from embedrl.data.on_bad import OnBad, OnBadMode
from embedrl.errors import DataError
from embedrl.evaluation.table import SetRow
from embedrl.types import RetrievalTask, Side


class UnusableError(DataError):
    """A row, a file or a judgement that cannot be used.

    Args:
        cause: Kind of fault, short enough for a table; skipped rows are counted by cause.
        message: What is wrong, where, and how to fix it.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message, cause)


class TaskBuilder:
    """Collects the task of one data set while it is read.

    The pool is the union of the candidates added by `candidate`; of several with one name, the first is kept.

    Args:
        row: The data set.
        on_bad: `raise` stops at what cannot be used; `skip` leaves it out and counts it.
        bad: Where what is left out is counted over the whole run and named, up to its limit.
    """

    def __init__(self, row: SetRow, on_bad: OnBadMode, bad: OnBad | None = None) -> None:
        self.row, self.on_bad, self.bad = row, on_bad, bad or OnBad(on_bad, sys.maxsize)
        self.skipped: Counter[str] = Counter()
        self._candidates: list[Side] = []
        self._places: dict[str, int | None] = {}  # None: a candidate that was left out
        self._queries: list[Side] = []
        self._query_ids: dict[str, None] = {}  # in order
        self._qrels: list[dict[int, float]] = []
        self._pools: list[list[int]] = []

    @contextmanager
    def unless_bad(self, where: str) -> Iterator[None]:
        """Count an unusable item that the block raises, or raise it again with the name of the data set.

        Args:
            where: The row, file or id.

        Raises:
            DataError: If something is unusable and `on_bad` is `raise`.
            TooManyBadError: If too much is.
        """
        try:
            yield
        except UnusableError as error:
            if self.on_bad == "raise":
                raise DataError(f"{self.row.name}: {where}: {error}, or leave it out with --on_bad skip") from error
            self.skipped[error.cause] += 1
            self.bad.skip(error, self.row.name, where)

    def candidate(self, name: str, side: Callable[[], Side]) -> None:
        """Put a candidate into the pool unless its name is there already.

        Args:
            name: Its name, unique in the data set.
            side: Makes it; called only for a new name.

        Raises:
            DataError: If it is unusable and `on_bad` is `raise`.
        """
        if name in self._places:
            return
        self._places[name] = None
        with self.unless_bad(f"candidate {name:.200}"):
            made = _filled(side())
            self._places[name] = len(self._candidates)
            self._candidates.append(made)

    def query(
        self, query_id: str, side: Side, relevance: Mapping[str, float], pool: Sequence[str] | None = None
    ) -> None:
        """Add a query, after its candidates.

        Args:
            query_id: Its name.
            side: The query.
            relevance: The relevance of candidates, each by its own name; 0 or less is not relevant.
            pool: Names of the candidates it is ranked against; needed if the data set is ranked locally.

        Raises:
            UnusableError: If it is empty, its name occurred before, or no relevant candidate is left.
            DataError: If a candidate is unknown and `on_bad` is `raise`.
        """
        _filled(side)
        if query_id in self._query_ids:
            raise UnusableError("repeated query", f"query {query_id} occurs twice: drop one")
        judged: dict[int, float] = {}
        for name, value in relevance.items():
            with self.unless_bad(f"query {query_id}"):
                place = self._place(name, "qrel to an unknown candidate")
                if place is not None and value > 0:
                    judged[place] = float(value)
        if not judged:
            raise UnusableError(
                "query without a relevant candidate",
                "no relevant candidate is left: complete the qrels or the files of its candidates",
            )
        places = []
        for name in dict.fromkeys(pool or ()):
            with self.unless_bad(f"query {query_id}"):
                places.append(self._place(name, "pool with an unknown candidate"))
        self._queries.append(side)
        self._query_ids[query_id] = None
        self._qrels.append(judged)
        self._pools.append([place for place in places if place is not None])

    def _place(self, name: str, cause: str) -> int | None:
        """The position of a candidate; None if it was left out."""
        if name not in self._places:
            raise UnusableError(
                cause, f"its candidate {name!r:.200} is unknown: complete the corpus, or correct the row"
            )
        return self._places[name]

    def finish(self) -> tuple[RetrievalTask, Mapping[str, int]]:
        """The task, and what was left out, by cause.

        Raises:
            DataError: If no query is left.
        """
        if not self._queries:
            causes = ", ".join(f"{cause}: {count}" for cause, count in self.skipped.items())
            why = causes or "the files hold none"
            raise DataError(f"{self.row.name}: no query could be used ({why}): check the local copy")
        names = [name for name, place in self._places.items() if place is not None]
        task = RetrievalTask(
            name=self.row.name,
            queries=self._queries,
            candidates=self._candidates,
            qrels=self._qrels,
            pools=self._pools if self.row.ranking == "local" else None,
            main_metric=self.row.main_metric,
            version=self.row.version,
            instruction=self.row.instruction,
            query_ids=list(self._query_ids),
            candidate_ids=names,
        )
        return task, dict(self.skipped)


def _filled(side: Side) -> Side:
    """The side, unless it is empty."""
    if side.is_empty:
        raise UnusableError("unreadable row", "a side has neither text nor pixels: complete the row")
    return side
