"""Lessons for a reranker that thinks before it judges: one candidate at a time, or a ranking of several.

Source: MMRAG-RFT (arXiv 2512.17194), whose prompts are not published; the words are this project's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Literal

from embedrl.data.lenient_render import as_lenient
from embedrl.data.render import RenderOptions, side_content
from embedrl.data.rerank_lessons import RerankLessons
from embedrl.data.rerank_replies import CandidateRanking, RelevanceVerdict, reference_thought
from embedrl.data.sources import PairSource
from embedrl.tcot.parser import parse
from embedrl.tcot.prompts import Style
from embedrl.types import Chat, Lesson, Side

Form = Literal["verdict", "ranking"]

_BEGIN = {
    "full": "Here is a query, then {candidates}. Each may come with notes and close-ups of what matters.\nQuery:",
    "brief": "query :",
}
_CANDIDATE = {"full": "Candidate{number}:", "brief": "target{number} :"}
_ONE = {
    "full": "Is the candidate what the query asks for? Think inside <think></think>: what does the query ask for, what "
    "is the candidate? Then reply <answer>relevant</answer> or <answer>irrelevant</answer>.",
    "brief": "think , match ?",
}
_SEVERAL = {
    "full": "Think inside <think></think>: what does the query ask for, what is each candidate? Then write all their "
    "numbers in <ranking></ranking>, the best first, separated by commas{answer}.",
    "brief": "think , rank{answer} ?",
}
_ANSWER = {"full": ", and the query's answer in <answer></answer>", "brief": " , answer"}


def verdict_chat(
    query: Side, candidate: Side, render: RenderOptions, style: Style = "full", *, where: str = ""
) -> Chat:
    """The request for a thought and a verdict on one candidate, to which `RelevanceVerdict.render` is a reply.

    Args:
        query: The query.
        candidate: The candidate.
        render: What to show of both sides; T-CoTs are read leniently.
        style: `full` explains the request; `brief` is for small models that were trained on it.
        where: `dataset/id`, put in front of every error.

    Raises:
        DataError: If a side is empty, or a picture is broken.
    """
    return _chat(query, [candidate], render, style, _ONE[style], where)


def ranking_chat(
    query: Side, candidates: Sequence[Side], render: RenderOptions, style: Style = "full", answers: bool = False,
    *, where: str = "",
) -> Chat:  # fmt: skip
    """The request for a thought and a ranking of candidates, to which `CandidateRanking.render` is a reply.

    Args:
        query: The query.
        candidates: The candidates; the first one has number 1.
        render: What to show of all sides; T-CoTs are read leniently.
        style: See `verdict_chat`.
        answers: Whether to ask for the query's answer, too.
        where: `dataset/id`, put in front of every error.

    Raises:
        DataError: If a side is empty, or a picture is broken.
    """
    request = _SEVERAL[style].format(answer=_ANSWER[style] if answers else "")
    return _chat(query, candidates, render, style, request, where)


def _chat(
    query: Side, candidates: Sequence[Side], render: RenderOptions, style: Style, request: str, where: str
) -> Chat:
    options = as_lenient(render)
    several = len(candidates) > 1
    begin = _BEGIN[style].format(candidates=f"{len(candidates)} candidates" if several else "one candidate")
    content: list[dict[str, Any]] = [{"type": "text", "text": f"{begin}\n"}]
    content += side_content(query, options, where=f"{where} query".strip())
    for number, side in enumerate(candidates, 1):
        name = _CANDIDATE[style].format(number=f" {number}" if several else "")
        content.append({"type": "text", "text": f"\n{name}\n"})
        content += side_content(side, options, where=f"{where} candidate".strip())
    content.append({"type": "text", "text": f"\n{request}"})
    return [{"role": "user", "content": content}]


class RerankThoughts:
    """Pairs as lessons for a reranker that thinks; a `LessonSource`, both for cross-entropy and for rewards.

    The reply of a lesson is a reference: its thought repeats the answers of the sides' T-CoTs (`reference_thought`), so
    it teaches the form where words decide; what is right stands in `gold`, which the rewards of `embedrl.rl` read.

    - `verdict`: one candidate; `gold` holds `relevant`, and `balance`, by which the reward of a right verdict is
      multiplied so that both classes count alike: 0.5 over the class's share of the lessons.
    - `ranking`: the pair's target and its negatives in an order drawn by the seed and the row; `gold` holds `grades`,
      the relevance of each candidate, and `reference`, the answer of the target's T-CoT, if answers are asked for.

    Args:
        sources: The data sets.
        form: What is asked for.
        negatives: Candidates that are not what the query asks for, for each pair; see `RerankLessons`.
        answers: Of rankings: ask for the query's answer, too.
        style: Style of the request.
        render: What to show of the sides.
        limit: Use only this many pairs of every data set, the first ones; None means all.
        seed: Seed of the draws.

    Raises:
        ConfigError: If there is no source, a number is out of range, or a data set has a single pair.
    """

    def __init__(
        self,
        sources: Sequence[PairSource],
        form: Form = "verdict",
        negatives: int = 1,
        answers: bool = False,
        style: Style = "full",
        render: RenderOptions = RenderOptions(),  # noqa: B008 - frozen
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        self._questions = RerankLessons(sources, negatives, style, render, limit, seed)
        self.form, self.answers, self.style, self.render, self.seed = form, answers, style, render, seed
        self.name = self._questions.name

    def __len__(self) -> int:
        """Number of lessons."""
        each = 1 if self.form == "verdict" else 1 + self._questions.negatives
        return len(self._questions) // each

    def __getitem__(self, index: int) -> Lesson:
        """Lesson `index`: of verdicts, a pair's target, then its negatives.

        Raises:
            DataError: If a side is broken, or the data set has no other target; the message names `dataset/id`.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._verdict(index) if self.form == "verdict" else self._ranking(index)

    def _verdict(self, index: int) -> Lesson:
        pair, candidate, relevant = self._questions.question(index)
        where = f"{pair.dataset}/{pair.id}"
        chat = verdict_chat(pair.query, candidate, self.render, self.style, where=where)
        reply = RelevanceVerdict(reference_thought(_answer(pair.query), [_answer(candidate)]), relevant)
        share = (1 if relevant else self._questions.negatives) / (1 + self._questions.negatives)
        gold = {"relevant": relevant, "balance": 0.5 / share}
        return Lesson(chat, reply.render(), f"{pair.dataset.rpartition('/')[2]}_verdict", gold)

    def _ranking(self, index: int) -> Lesson:
        each = 1 + self._questions.negatives
        rows = [self._questions.question(index * each + which) for which in range(each)]
        pair = rows[0][0]
        random.Random(f"{self.seed}/order/{pair.dataset}/{pair.id}").shuffle(rows)
        sides, grades = [side for _, side, _ in rows], [float(relevant) for _, _, relevant in rows]
        where = f"{pair.dataset}/{pair.id}"
        chat = ranking_chat(pair.query, sides, self.render, self.style, self.answers, where=where)
        order = sorted(range(each), key=lambda i: (-grades[i], i))
        answer = _answer(pair.target) if self.answers else None
        thought = reference_thought(_answer(pair.query), [_answer(side) for side in sides])
        reply = CandidateRanking(thought, tuple(i + 1 for i in order), answer)
        gold = {"grades": grades} | ({} if answer is None else {"reference": answer})
        return Lesson(chat, reply.render(), f"{pair.dataset.rpartition('/')[2]}_ranking", gold)


def _answer(side: Side) -> str:
    """What a side's T-CoT answers; its text if it has none."""
    answer = parse(side.tcot, side.modality).tcot.answer if side.tcot.strip() else ""
    return " ".join((answer or side.text).split())
