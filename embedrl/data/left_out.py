"""A retrieval task without the sides that turned out to be bad."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from embedrl.errors import DataError
from embedrl.types import RetrievalTask

T = TypeVar("T")


@dataclass(frozen=True)
class Kept:
    """What is left of a task.

    Attributes:
        task: The task.
        queries: The positions that its queries had.
        candidates: The positions that its candidates had.
        unanswerable: Number of good queries that went because none of their relevant candidates is left.
    """

    task: RetrievalTask
    queries: list[int]
    candidates: list[int]
    unanswerable: int = 0


def without(task: RetrievalTask, queries: Collection[int], candidates: Collection[int]) -> Kept:
    """Leave bad queries and candidates out of a task, and with them queries that have no relevant candidate left.

    Args:
        task: The task.
        queries: Positions of the bad queries.
        candidates: Positions of the bad candidates.

    Raises:
        DataError: If nothing is left to score.
    """
    kept = [i for i in range(len(task.candidates)) if i not in candidates]
    place = {old: new for new, old in enumerate(kept)}
    qrels = [{place[i]: value for i, value in judged.items() if i in place} for judged in task.qrels]
    good = [i for i in range(len(task.queries)) if i not in queries]
    asked = [i for i in good if any(value > 0 for value in qrels[i].values())]
    if not asked:
        raise DataError(
            f"{task.name}: no query is left to score: {len(task.queries) - len(good)} of {len(task.queries)} queries "
            f"and {len(candidates)} of {len(task.candidates)} candidates are bad: mend the data"
        )
    pools = None
    if task.pools is not None:
        pools = [[place[i] for i in task.pools[query] if i in place] for query in asked]
    smaller = replace(
        task,
        queries=_at(task.queries, asked),
        candidates=_at(task.candidates, kept),
        qrels=_at(qrels, asked),
        pools=pools,
        query_ids=None if task.query_ids is None else _at(task.query_ids, asked),
        candidate_ids=None if task.candidate_ids is None else _at(task.candidate_ids, kept),
    )
    return Kept(smaller, asked, kept, len(good) - len(asked))


def _at(items: Sequence[T], positions: Sequence[int]) -> list[T]:
    return [items[i] for i in positions]
