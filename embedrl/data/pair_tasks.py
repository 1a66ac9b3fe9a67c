"""Pairs as retrieval tasks: each distinct query against all distinct targets, and the reverse."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from embedrl.data.sources import PairSource
from embedrl.errors import DataError
from embedrl.tcot.store import picture_content
from embedrl.types import Modality, RetrievalTask, Side

_LETTERS = {Modality.TEXT: "t", Modality.IMAGE: "i", Modality.VIDEO: "v"}


class PairTasks:
    """Retrieval over the pairs of a data set, such as from a caption to its picture and from a picture to its caption.

    Equal texts (case and spaces do not count) and pictures of equal bytes are one query or candidate. All targets that
    a query is paired with are right: several pictures of one caption, several captions of one picture. The tasks are
    named by the data set and the modalities: `stamps_t2i` and `stamps_i2t`.

    Args:
        source: The pairs.
        both_directions: Whether targets retrieve their queries, too.
        main_metric: The figure to report.
    """

    def __init__(self, source: PairSource, both_directions: bool = True, main_metric: str = "hit@10") -> None:
        self.source, self.both_directions, self.main_metric = source, both_directions, main_metric

    def tasks(self) -> list[RetrievalTask]:
        """The tasks.

        Raises:
            DataError: If a pair cannot be read, or there is none.
        """
        pairs = [self.source[index] for index in range(len(self.source))]
        if not pairs:
            raise DataError(f"{self.source.name} has no pairs to score with: give a data set that has some")
        ids = [pair.id for pair in pairs]
        queries, query_names, query_of = _distinct([pair.query for pair in pairs], ids)
        targets, target_names, target_of = _distinct([pair.target for pair in pairs], ids)
        tasks = [self._task(queries, targets, query_names, target_names, query_of, target_of)]
        if self.both_directions:
            tasks.append(self._task(targets, queries, target_names, query_names, target_of, query_of, tasks[0].name))
        return tasks

    def _task(
        self,
        queries: list[Side],
        candidates: list[Side],
        query_ids: list[str],
        candidate_ids: list[str],
        query_of: Sequence[int],
        candidate_of: Sequence[int],
        other: str = "",
    ) -> RetrievalTask:
        qrels: list[dict[int, float]] = [{} for _ in queries]
        for query, candidate in zip(query_of, candidate_of, strict=True):
            qrels[query][candidate] = 1.0
        name = f"{self.source.name}_{_LETTERS[queries[0].modality]}2{_LETTERS[candidates[0].modality]}"
        return RetrievalTask(
            f"{name}_reversed" if name == other else name,
            queries,
            candidates,
            qrels,
            main_metric=self.main_metric,
            query_ids=query_ids,
            candidate_ids=candidate_ids,
        )


def folded(text: str) -> str:
    """A text by which texts that say the same are equal: without case and repeated spaces.

    >>> folded("  Red  Fox ") == folded("red fox")
    True
    """
    return unicodedata.normalize("NFC", " ".join(unicodedata.normalize("NFC", text).split()).casefold())


def _distinct(sides: Sequence[Side], ids: Sequence[str]) -> tuple[list[Side], list[str], list[int]]:
    """The different sides, the id of the pair that each was first seen in, and which of them each pair has."""
    place: dict[object, int] = {}
    kept: list[int] = []
    places = []
    for index, side in enumerate(sides):
        pixels = [tuple(map(picture_content, sources)) for sources in (side.images, side.frames)]
        key = (folded(side.text), *pixels)
        if key not in place:
            place[key] = len(kept)
            kept.append(index)
        places.append(place[key])
    return [sides[index] for index in kept], [ids[index] for index in kept], places
