"""How well the words of a T-CoT agree with its vector: a judge reads what the vector retrieved."""

from __future__ import annotations

import random
from collections.abc import Sequence

from embedrl.errors import DataError
from embedrl.rl.rewards.judge import Judge, Question, Verdict
from embedrl.tcot.matching import match_prompt
from embedrl.types import Role, Side


def agreements(
    judge: Judge, options: Sequence[Side], retrieved: Sequence[Sequence[Side]], where: str, seed: int
) -> list[float]:
    """For each T-CoT of a query, how sure a judge is of the candidate that its vector puts first.

    The judge reads the query's text and T-CoT, and the T-CoTs of the retrieved candidates, shuffled: the question of
    the process reward (Embed-RL Eq. 5).

    Args:
        judge: The judge.
        options: The query with each of its T-CoTs.
        retrieved: The best candidates of each, the first one first.
        where: A name of the query for errors.
        seed: Seed of the order in which candidates are numbered.

    Returns:
        The judge's probability of the first candidate, or 1 and 0 if it tells none; below 0 if it has no verdict.

    Raises:
        DataError: If the judge has a verdict on none.
    """
    questions, places = [], []
    for number, (option, candidates) in enumerate(zip(options, retrieved, strict=True)):
        order = list(range(len(candidates)))
        random.Random(f"{seed}/{where}/{number}").shuffle(order)
        places.append(order.index(0))
        notes = tuple(candidates[i].tcot for i in order)
        prompt = match_prompt(Role.QUERY, option.text, option.tcot, notes)
        anchor = f"{option.text.strip()}\n{option.tcot}".strip()
        questions.append(Question(f"{where}, T-CoT {number}", prompt, len(notes), anchor, notes))
    verdicts = judge.choose(questions)
    if all(verdict.index is None for verdict in verdicts):
        raise DataError(
            f"{where}: the judge {judge.name} had no verdict on any of {len(verdicts)} T-CoTs ({verdicts[0].cause}): "
            "see that it runs and answers with a number, or choose by medoid or delta_s"
        )
    return [_agreement(verdict, place) for verdict, place in zip(verdicts, places, strict=True)]


def _agreement(verdict: Verdict, place: int) -> float:
    if verdict.index is None:
        return -1.0
    return verdict.probabilities[place] if verdict.probabilities is not None else float(verdict.index == place)
