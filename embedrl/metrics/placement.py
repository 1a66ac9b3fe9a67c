"""Where pictures stand in an answer: reading an inserter's reply, and the pieces of a reward for it.

The pieces are those that the inserter of M2IO-R1 (arXiv 2508.06328) names; the paper prints no formulas. Those here are
this project's.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from embedrl.data.inserter import Placement

ProblemName = Literal[
    "invalid_json", "not_a_list", "bad_entry", "invented_image", "repeated_image", "sentence_out_of_range",
    "invented_source", "empty_reply", "cut_off",
]  # fmt: skip

REACH = 3
"""Sentences from the gold one at which a placed picture earns nothing."""

_THOUGHT = re.compile("</think(?:ing)?>")
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n?```", re.DOTALL | re.IGNORECASE)
_ENTRY = re.compile(r"\{[^{}]*\}")
_LONGEST = 10_000  # characters of a reply in which entries are looked for, if it is no JSON


@dataclass(frozen=True, slots=True)
class ReplyProblem:
    """Something wrong with what a model wrote.

    Attributes:
        name: Which kind of problem.
        detail: What it is about, in a few words.
    """

    name: ProblemName
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}" if self.detail else self.name


@dataclass(frozen=True, slots=True)
class ReadPlacements:
    """An inserter's reply, read.

    Attributes:
        placements: The placements that hold, in the reply's order: known pictures, each once, behind known sentences.
        problems: What was wrong with the reply.
    """

    placements: tuple[Placement, ...]
    problems: tuple[ReplyProblem, ...] = ()


def without_thinking(reply: str) -> str:
    """What follows the last `</think>` or `</thinking>`.

    >>> without_thinking("<think>which?</think> [] ")
    '[]'
    """
    return _THOUGHT.split(reply)[-1].strip()


def read_placements(reply: str, images: Collection[int], sentences: int) -> ReadPlacements:
    """Read a reply: a JSON list of `{"image": id, "sentence": number}`, behind what the model thinks aloud.

    A Markdown fence around the list is no problem. Of a reply that is no JSON, such as one that was cut off, the whole
    entries are kept.

    Args:
        reply: What the model wrote.
        images: Numbers of the pictures that it was given.
        sentences: Number of sentences.

    >>> read = read_placements('[{"image": 2, "sentence": 1}, {"image": 9, "sentence": 1}]', {1, 2}, 3)
    >>> read.placements, *map(str, read.problems)
    ((Placement(image=2, sentence=1),), 'invented_image: 9')
    """
    text = without_thinking(reply)
    if fenced := _FENCE.fullmatch(text):
        text = fenced[1].strip()
    problems: list[ReplyProblem] = []
    placements: dict[int, Placement] = {}
    for number, entry in enumerate(_entries(text, problems), 1):
        placement = _placement(entry)
        if placement is None:
            problems.append(ReplyProblem("bad_entry", f"entry {number} is no {{image, sentence}} of whole numbers"))
        elif placement.image not in images:
            problems.append(ReplyProblem("invented_image", _number(placement.image)))
        elif placement.image in placements:
            problems.append(ReplyProblem("repeated_image", _number(placement.image)))
        elif not 1 <= placement.sentence <= sentences:
            problems.append(ReplyProblem("sentence_out_of_range", f"{_number(placement.sentence)} of {sentences}"))
        else:
            placements[placement.image] = placement
    return ReadPlacements(tuple(placements.values()), tuple(problems))


def _entries(text: str, problems: list[ReplyProblem]) -> list[Any]:
    """The entries of the list; those that can be read if the whole cannot."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        problems.append(ReplyProblem("invalid_json", text[:80]))
        return [entry for piece in _ENTRY.findall(text[:_LONGEST]) if (entry := _loaded(piece)) is not None]
    if not isinstance(value, list):
        problems.append(ReplyProblem("not_a_list", type(value).__name__))
        return [value] if isinstance(value, dict) and _placement(value) is not None else []
    return value


def _loaded(piece: str) -> Any:
    try:
        return json.loads(piece)
    except (ValueError, RecursionError):
        return None


def _placement(entry: Any) -> Placement | None:
    if not isinstance(entry, dict) or entry.keys() != {"image", "sentence"}:
        return None
    image, sentence = entry["image"], entry["sentence"]
    return Placement(image, sentence) if type(image) is int and type(sentence) is int else None


def _number(value: int) -> str:
    """A number in few characters: Python refuses to print the longest ones."""
    return str(value) if abs(value) < 10**9 else "a number above 1,000,000,000" if value > 0 else "a negative number"


# ------------------------------------------------------------------------------------------ the pieces of a reward


def format_score(reply: ReadPlacements) -> float:
    """1 if nothing is wrong with the reply, else 0: see `ProblemName` for what may be.

    >>> format_score(read_placements("[]", {1}, 1)), format_score(read_placements("none", {1}, 1))
    (1.0, 0.0)
    """
    return float(not reply.problems)


def image_f1(placed: Sequence[Placement], gold: Sequence[Placement]) -> float:
    """F1 of the chosen pictures: 2 |P ∩ G| / (|P| + |G|), where P and G are sets of pictures; 1 if both are empty.

    Args:
        placed: The model's placements, each picture once.
        gold: The right ones.

    >>> image_f1([Placement(1, 1), Placement(2, 1)], [Placement(1, 3)])
    0.6666666666666666
    """
    chosen, right = {one.image for one in placed}, {one.image for one in gold}
    return 2 * len(chosen & right) / (len(chosen) + len(right)) if chosen or right else 1.0


def placement_score(placed: Sequence[Placement], gold: Sequence[Placement], reach: int = REACH) -> float:
    """How near the pictures stand to where they belong: the mean over gold pictures of max(0, 1 - |s - g| / reach).

    s and g are the numbers of the sentences of a picture as it was placed and in the gold placement. A gold picture
    that was not placed counts 0. Without gold pictures it is 1 if nothing was placed, else 0.

    Args:
        placed: The model's placements, each picture once.
        gold: The right ones.
        reach: Sentences from the gold one at which a picture earns nothing, 1 or more.

    >>> placement_score([Placement(1, 2), Placement(2, 5)], [Placement(1, 2), Placement(2, 4)], reach=2)
    0.75
    """
    if not gold:
        return float(not placed)
    sentences = {one.image: one.sentence for one in placed}
    earned = (
        max(0.0, 1 - abs(sentences[one.image] - one.sentence) / reach) if one.image in sentences else 0.0
        for one in gold
    )
    return sum(earned) / len(gold)


def order_score(placed: Sequence[Placement], gold: Sequence[Placement]) -> float | None:
    """Kendall's tau-b between the sentences of the pictures that both hold, -1..1.

    tau-b = (C - D) / sqrt((n0 - n1) (n0 - n2)): C and D count pairs of pictures in the same and in the opposite order,
    n0 all pairs, n1 and n2 those that stand behind one sentence in `placed` and in `gold`. Where the gold placement
    has an order and the shared pictures show none (fewer than two, or all behind one sentence), it is 0.

    Args:
        placed: The model's placements, each picture once.
        gold: The right ones.

    Returns:
        The value; None if the gold placement has no order: fewer than two pictures, or all behind one sentence.

    >>> order_score([Placement(1, 1), Placement(2, 2)], [Placement(2, 1), Placement(1, 4)])
    -1.0
    """
    if len({one.sentence for one in gold}) < 2:
        return None
    sentences = {one.image: one.sentence for one in placed}
    shared = [(sentences[one.image], one.sentence) for one in gold if one.image in sentences]
    agree = untied = gold_untied = 0
    for (s1, g1), (s2, g2) in combinations(shared, 2):
        agree += _sign(s1 - s2) * _sign(g1 - g2)
        untied += s1 != s2
        gold_untied += g1 != g2
    return agree / math.sqrt(untied * gold_untied) if untied and gold_untied else 0.0


def score_placements(
    reply: str, images: Collection[int], sentences: int, gold: Sequence[Placement], reach: int = REACH
) -> dict[str, float]:
    """All pieces for one reply.

    Args:
        reply: What the model wrote.
        images: Numbers of the pictures that it was given.
        sentences: Number of sentences.
        gold: The right placement.
        reach: See `placement_score`.

    Returns:
        `format`, `image_f1`, `placement`, and `order` where the gold placement has one.
    """
    read = read_placements(reply, images, sentences)
    scores = {
        "format": format_score(read),
        "image_f1": image_f1(read.placements, gold),
        "placement": placement_score(read.placements, gold, reach),
    }
    order = order_score(read.placements, gold)
    return scores if order is None else scores | {"order": order}


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)
