"""What a reasoning reranker replies: a thought, then a verdict on one candidate or a ranking of several.

Source: MMRAG-RFT (arXiv 2512.17194): coarse relevance of one document at a time, then one completion that ranks what is
left and answers; the tags are this project's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

RELEVANT, IRRELEVANT = "relevant", "irrelevant"
"""The two verdicts."""

_VERDICT = re.compile(
    rf"\s*<think>(?P<thought>.*?)</think>\s*<answer>\s*(?P<verdict>{RELEVANT}|{IRRELEVANT})\s*</answer>\s*", re.S
)
_RANKING = re.compile(
    r"\s*<think>(?P<thought>.*?)</think>\s*<ranking>(?P<numbers>[\d,\s]*)</ranking>\s*(?:<answer>(?P<answer>.*?)</answer>\s*)?",
    re.S,
)
_TAG = re.compile(r"</?(think|answer|ranking)>")


@dataclass(frozen=True, slots=True)
class RelevanceVerdict:
    """A reply on one candidate.

    Attributes:
        thought: The thought.
        relevant: The verdict.
    """

    thought: str
    relevant: bool

    def render(self) -> str:
        """The reply as text.

        >>> RelevanceVerdict("both are red .", True).render()
        '<think>both are red .</think><answer>relevant</answer>'
        """
        return f"<think>{self.thought}</think><answer>{RELEVANT if self.relevant else IRRELEVANT}</answer>"


@dataclass(frozen=True, slots=True)
class CandidateRanking:
    """A reply on several candidates.

    Attributes:
        thought: The thought.
        order: The candidates' numbers, from 1, the best first.
        answer: The answer to the query; None if the reply gives none.
    """

    thought: str
    order: tuple[int, ...]
    answer: str | None = None

    def render(self) -> str:
        """The reply as text.

        >>> CandidateRanking("the second is red .", (2, 1), "red star").render()
        '<think>the second is red .</think><ranking>2, 1</ranking><answer>red star</answer>'
        """
        text = f"<think>{self.thought}</think><ranking>{', '.join(map(str, self.order))}</ranking>"
        return text if self.answer is None else f"{text}<answer>{self.answer}</answer>"


def read_verdict(reply: str) -> RelevanceVerdict | None:
    """The verdict of a reply; None if it is not exactly a thought and one of the two words, in their tags.

    >>> read_verdict("<think>red , blue .</think><answer>irrelevant</answer>")
    RelevanceVerdict(thought='red , blue .', relevant=False)
    >>> read_verdict("<answer>relevant</answer>") is None
    True
    """
    match = _VERDICT.fullmatch(reply)
    if match is None or _TAG.search(match["thought"]):
        return None
    return RelevanceVerdict(match["thought"], match["verdict"] == RELEVANT)


def read_ranking(reply: str, candidates: int, answers: bool = False) -> CandidateRanking | None:
    """The ranking of a reply; None if it is not exactly that.

    Args:
        reply: The text.
        candidates: How many were shown: each number from 1 on must stand in the ranking once.
        answers: Whether an answer was asked for.

    >>> read_ranking("<think>x</think><ranking>2, 1</ranking>", 2)
    CandidateRanking(thought='x', order=(2, 1), answer=None)
    >>> read_ranking("<think>x</think><ranking>2, 2</ranking>", 2) is None
    True
    """
    match = _RANKING.fullmatch(reply)
    if match is None or any(_TAG.search(match[part] or "") for part in ("thought", "answer")):
        return None
    numbers = [part.strip() for part in match["numbers"].split(",")]
    if sorted(numbers) != sorted(map(str, range(1, candidates + 1))) or (match["answer"] is not None) != answers:
        return None
    return CandidateRanking(match["thought"], tuple(map(int, numbers)), match["answer"])


def reference_thought(asked: str, shown: Sequence[str]) -> str:
    """A thought that puts what a query asks for beside what candidates are, in the words of their T-CoTs' answers.

    Args:
        asked: The answer of the query's T-CoT.
        shown: Those of the candidates.

    >>> reference_thought("red star", ["blue star"])
    'asked : red star . shown : blue star .'
    """
    if len(shown) == 1:
        return f"asked : {asked} . shown : {shown[0]} ."
    return " ".join([f"asked : {asked} .", *(f"{number} : {one} ." for number, one in enumerate(shown, 1))])
