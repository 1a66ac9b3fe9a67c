"""How good is a discriminator, and does its answer follow the candidate when the list is rotated?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TypeVar

from embedrl.errors import ConfigError
from embedrl.rl.rewards.judge import Judge, Question, Verdict

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rotated:
    """A question with its candidates in several orders: rotations of one list.

    Attributes:
        kind: What it is counted under, such as the data set.
        askings: The question in each order.
        shifts: By how many places each order is rotated: the first candidate stands at place `shift`.
        right: Positions of the right candidates in the list that is not rotated.
    """

    kind: str
    askings: tuple[Question, ...]
    shifts: tuple[int, ...]
    right: frozenset[int]


@dataclass(frozen=True, slots=True)
class JudgeScores:
    """What a judge is worth on questions of one kind; shares are of the answers that there are.

    Attributes:
        kind: Which questions; `all` for all of them.
        questions: Number of questions.
        right: Share of right answers, over all orders.
        chance: The same of a judge that guesses.
        follows: Of two answers to one question in two orders, the share that name the same candidate: 1 for a judge
            that reads, chance level or less for one that answers a place.
        keeps_place: The share of them that name the same place: 0 for a judge that reads.
        favourite: Share of the answers that name the place named most often; `1 / candidates` without a favourite.
        right_probability: Mean probability of the right candidates; None if the judge gives no probabilities.
        no_verdict: Share of the askings without an answer.
    """

    kind: str
    questions: int
    right: float
    chance: float
    follows: float
    keeps_place: float
    favourite: float
    right_probability: float | None
    no_verdict: float


def shifts(choices: int, rotations: int) -> tuple[int, ...]:
    """Places by which a list is rotated, spread evenly, 0 among them; no two are equal.

    >>> shifts(5, 3), shifts(2, 3)
    ((0, 1, 3), (0, 1))
    """
    return tuple(sorted({choices * i // rotations for i in range(rotations)}))


def rotate(candidates: Sequence[T], shift: int) -> tuple[T, ...]:
    """The list with its first element at place `shift`.

    >>> rotate("abc", 1)
    ('c', 'a', 'b')
    """
    cut = len(candidates) - shift
    return (*candidates[cut:], *candidates[:cut])


def in_several_orders(
    kind: str,
    candidates: Sequence[T],
    right: frozenset[int],
    rotations: int,
    ask: Callable[[tuple[T, ...]], Question],
) -> Rotated:
    """A question with its candidates in several orders.

    Args:
        kind: What it is counted under.
        candidates: The candidates, in an order drawn by chance.
        right: Positions of the right ones.
        rotations: Number of orders; at most as many as there are candidates are asked.
        ask: Makes the question of the candidates in an order.
    """
    places = shifts(len(candidates), rotations)
    return Rotated(kind, tuple(ask(rotate(candidates, shift)) for shift in places), places, right)


def check_judge(judge: Judge, questions: Sequence[Rotated]) -> list[JudgeScores]:
    """Ask every question in all its orders.

    Args:
        judge: The judge.
        questions: The questions.

    Returns:
        The scores of each kind, in order of appearance, then of `all`.

    Raises:
        ConfigError: If there is no question, or one has a single order.
    """
    if not questions or any(len(question.askings) < 2 for question in questions):
        raise ConfigError("a check needs questions, each in two orders at least")
    verdicts = iter(judge.choose([asking for question in questions for asking in question.askings]))
    answered = [(question, [next(verdicts) for _ in question.askings]) for question in questions]
    kinds = list(dict.fromkeys(question.kind for question in questions))
    rows = [_scores(kind, [row for row in answered if row[0].kind == kind]) for kind in kinds]
    return [*rows, _scores("all", answered)]


def _scores(kind: str, answered: Sequence[tuple[Rotated, list[Verdict]]]) -> JudgeScores:
    right: list[bool] = []
    mass: list[float] = []
    same_candidate: list[bool] = []
    same_place: list[bool] = []
    places: dict[int, int] = {}
    asked = 0
    for question, verdicts in answered:
        asked += len(verdicts)
        named: list[tuple[int, int]] = []  # candidate, place
        for asking, shift, verdict in zip(question.askings, question.shifts, verdicts, strict=True):
            if verdict.index is None:
                continue
            candidate = (verdict.index - shift) % asking.choices
            named.append((candidate, verdict.index))
            places[verdict.index] = places.get(verdict.index, 0) + 1
            right.append(candidate in question.right)
            if verdict.probabilities is not None:
                mass.append(sum(verdict.probabilities[(i + shift) % asking.choices] for i in question.right))
        for one, other in combinations(named, 2):
            same_candidate.append(one[0] == other[0])
            same_place.append(one[1] == other[1])
    chance = sum(len(question.right) / question.askings[0].choices for question, _ in answered) / len(answered)
    return JudgeScores(
        kind,
        len(answered),
        _mean(right),
        chance,
        _mean(same_candidate),
        _mean(same_place),
        max(places.values(), default=0) / max(len(right), 1),
        _mean(mass) if mass else None,
        1 - len(right) / asked,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def as_json(rows: Sequence[JudgeScores]) -> dict[str, dict[str, float | None]]:
    """The scores by kind; what was not measured is null."""
    return {
        row.kind: {name: None if value != value else value for name, value in asdict(row).items() if name != "kind"}
        for row in rows
    }
