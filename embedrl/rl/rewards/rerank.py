"""Rewards of a reranker that thinks: form, verdict, ranking, answer; all read the reply's text and the lesson's `gold`.

Source: MMRAG-RFT (arXiv 2512.17194), whose terms and weights are not published; these are this project's: format and a
class-balanced verdict in stage 1; 0.2 format + 0.4 nDCG + 0.4 answer in stage 2.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from embedrl.data.rerank_replies import CandidateRanking, RelevanceVerdict, read_ranking, read_verdict
from embedrl.errors import RewardError
from embedrl.types import Lesson


def _read(lesson: Lesson, reply: str) -> RelevanceVerdict | CandidateRanking | None:
    if "relevant" in lesson.gold:
        return read_verdict(reply)
    if "grades" in lesson.gold:
        return read_ranking(reply, len(lesson.gold["grades"]), "reference" in lesson.gold)
    raise RewardError(f"a lesson of kind {lesson.kind!r} is none to rerank by: give embedrl.data.RerankThoughts")


class RerankFormat:
    """1 if the reply has exactly the tags that were asked for, and ranks every candidate once; else 0."""

    name = "format"

    def __call__(self, lesson: Lesson, reply: str) -> float | None:
        """See `ReplyReward`.

        Raises:
            RewardError: If the lesson is not one of a reranker's.
        """
        return float(_read(lesson, reply) is not None)


class VerdictReward:
    """Of a right verdict `gold["balance"]`, else 0; with it, always saying one of both pays 0.5 in the mean.

    Advantages that are normalised inside a lesson's group leave its scale out: with `model.std_floor` at 1 or more the
    balance counts, and so it does in any case where as many lessons are relevant as not (`negatives: 1`).

    >>> lesson = Lesson([], "", "x", {"relevant": True, "balance": 2.0})
    >>> VerdictReward()(lesson, "<think>x</think><answer>relevant</answer>")
    2.0
    """

    name = "verdict"

    def __call__(self, lesson: Lesson, reply: str) -> float | None:
        """See `ReplyReward`.

        Raises:
            RewardError: If the lesson asks for no verdict.
        """
        read = _read(lesson, reply)
        if "relevant" not in lesson.gold:
            raise RewardError("the reward verdict: the lesson asks for a ranking; give RerankThoughts(form='verdict')")
        right = isinstance(read, RelevanceVerdict) and read.relevant == lesson.gold["relevant"]
        return float(lesson.gold["balance"]) if right else 0.0


class RankingReward:
    """nDCG of the ranking over all candidates, linear gain; 0 if the reply has none that can be read.

    >>> RankingReward()(Lesson([], "", "x", {"grades": [0.0, 1.0]}), "<think>x</think><ranking>2, 1</ranking>")
    1.0
    """

    name = "ndcg"

    def __call__(self, lesson: Lesson, reply: str) -> float | None:
        """See `ReplyReward`.

        Raises:
            RewardError: If the lesson asks for no ranking.
        """
        read = _read(lesson, reply)
        if "grades" not in lesson.gold:
            raise RewardError("the reward ndcg: the lesson asks for a verdict; give RerankThoughts(form='ranking')")
        if not isinstance(read, CandidateRanking):
            return 0.0
        grades: Sequence[float] = lesson.gold["grades"]
        best = _dcg(sorted(grades, reverse=True))
        return _dcg([grades[number - 1] for number in read.order]) / best if best else 0.0


class RankingAnswer:
    """F1 of the answer's words with those of `gold["reference"]`; 0 if one of both is missing.

    >>> lesson = Lesson([], "", "x", {"grades": [1.0], "reference": "red star"})
    >>> RankingAnswer()(lesson, "<think>x</think><ranking>1</ranking><answer>red</answer>")
    0.666...
    """

    name = "ranking_answer"

    def __call__(self, lesson: Lesson, reply: str) -> float | None:
        """See `ReplyReward`.

        Raises:
            RewardError: If the lesson is not one of a reranker's.
        """
        read = _read(lesson, reply)
        if not isinstance(read, CandidateRanking) or read.answer is None:
            return 0.0
        one, two = Counter(read.answer.lower().split()), Counter(str(lesson.gold["reference"]).lower().split())
        total = one.total() + two.total()
        return 2 * (one & two).total() / total if total else 0.0


def _dcg(grades: Sequence[float]) -> float:
    return sum(grade / math.log2(place + 2) for place, grade in enumerate(grades))
