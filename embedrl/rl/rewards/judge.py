"""The discriminator's contract, and the one that needs no server: a frozen generator. Source: Embed-RL §3.3, Eq. 5."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from embedrl.errors import ConfigError, NonFiniteError, RewardError
from embedrl.tcot.matching import match_chat
from embedrl.types import Chat

_INDEX = re.compile(r"""[\s"'`*\[(#]*([0-9]{1,6})[\s"'`*\]).]*""")

UNCLEAR = "unclear"
"""Cause of no verdict: the judge would hardly reply with any candidate's number."""

TOO_LONG = "too_long"
"""Cause of no verdict: the policy wrote more than the judge reads, which says nothing about the judge."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question to a discriminator: which of the numbered candidates fits best?

    Attributes:
        id: Id of the rollout that the answer rewards.
        prompt: What it reads; candidates are numbered from 1.
        choices: Number of candidates.
        anchor: Text and notes of the side that is asked about, for judges that compare texts.
        candidates: The candidates' notes, in order.
        content: The parts of the prompt where it holds pictures; None if it is all text.
    """

    id: str
    prompt: str
    choices: int
    anchor: str = ""
    candidates: tuple[str, ...] = ()
    content: list[dict[str, Any]] | None = field(default=None, compare=False)

    @property
    def chat(self) -> Chat:
        """The prompt as one user turn."""
        return match_chat(self.prompt) if self.content is None else [{"role": "user", "content": self.content}]


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer, or the reason why there is none.

    Attributes:
        index: Position of the chosen candidate, from 0; None is no verdict.
        cause: Why there is no verdict: `timeout`, `unreachable`, `http_500` (and other statuses), `malformed` (no chat
            completion), `unreadable` (no number), `out_of_range`, `unclear` (no number is likely) or `too_long` (the
            notes, for the judge; no failure of its own); a judge may have more. Empty if there is a verdict.
        probabilities: Probability of each candidate, if the judge knows it.
        detail: What else is known about the cause, in one line; verdicts that differ in it alone are equal.
    """

    index: int | None
    cause: str = ""
    probabilities: tuple[float, ...] | None = None
    detail: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if (self.index is None) != bool(self.cause):
            raise ValueError(f"a verdict is an index or a cause, not index {self.index} and cause {self.cause!r}")


class Judge(Protocol):
    """A frozen discriminator.

    One that knows no probabilities may say so by an attribute `gives_probabilities = False`: training with
    `form: probability` is then refused at its start. One that reads `Question.prompt` alone says so by
    `sees_pictures = False`: `evidence` is then refused.
    """

    @property
    def name(self) -> str:
        """Its name in logs and errors, e.g. its endpoint."""
        ...

    def choose(self, questions: Sequence[Question]) -> list[Verdict]:
        """Answer every question, in order; what goes wrong with one of them is its `cause`, not an exception."""
        ...


@runtime_checkable
class ChoiceScorer(Protocol):
    """A model that says how likely each of several replies is."""

    def score_choices(self, prompts: list[Chat], choices: list[list[str]]) -> list[Tensor]:
        """Log-probability of each choice, up to its last token, as the beginning of the reply to its prompt.

        Args:
            prompts: The chats.
            choices: The replies to weigh, for each prompt.

        Returns:
            `[choices]` for each prompt.
        """
        ...


@runtime_checkable
class KnowsItsLimit(Protocol):
    """A scorer that says whether a prompt is short enough for it."""

    def fits(self, prompt: Chat) -> bool:
        """Whether the model reads a prompt of this length."""
        ...


@runtime_checkable
class NeedsScorer(Protocol):
    """A reward or a judge that asks the reference model."""

    def bind(self, scorer: ChoiceScorer) -> None:
        """Use this model where none was named."""
        ...


def read_index(answer: str, choices: int) -> Verdict:
    """Read a candidate's number, from 1, off an answer that holds it and nothing more (but quotes, brackets, a stop).

    >>> read_index(" **3**.", 12).index, read_index("13", 12).cause, read_index("3 or 4", 12).cause
    (2, 'out_of_range', 'unreadable')
    """
    match = _INDEX.fullmatch(answer)
    if not match:
        return Verdict(None, "unreadable")
    number = int(match[1])
    return Verdict(number - 1) if 1 <= number <= choices else Verdict(None, "out_of_range")


class ReferenceJudge:
    """A frozen generator as discriminator: it takes the candidate whose number is the likeliest reply.

    Among equally likely numbers the first is taken; the candidates are shuffled, so that none is favoured.

    Args:
        scorer: A model with `score_choices`; None means the one that the trainer gives by `bind`: the policy with its
            adapter off.
        min_mass: Probability that the candidates' numbers must have together, as the whole reply; below it there is no
            verdict (`unclear`). 0 takes the likeliest number always, as constrained decoding does, also of a model that
            would say something else.

    Raises:
        ConfigError: If an option is out of its range.
    """

    def __init__(self, scorer: ChoiceScorer | None = None, min_mass: float = 0.0) -> None:
        if not 0 <= min_mass <= 1:
            raise ConfigError(f"judge.min_mass is {min_mass}: give 0 to 1")
        self.scorer, self.min_mass = scorer, min_mass

    @property
    def name(self) -> str:
        """See `Judge`."""
        return "the reference model"

    def bind(self, scorer: ChoiceScorer) -> None:
        """Use this model, unless one was given by name."""
        if self.scorer is None:
            self.scorer = scorer

    @torch.no_grad()
    def choose(self, questions: Sequence[Question]) -> list[Verdict]:
        """See `Judge`.

        Raises:
            ConfigError: If there is no model.
            NonFiniteError: If the model gives NaN.
            RewardError: If the model does not score every choice.
        """
        if self.scorer is None:
            raise ConfigError("process.judge: ReferenceJudge has no model: give `scorer`, or train with EGRLModule")
        readable = [self._fits(question) for question in questions]
        asked = [question for question, fits in zip(questions, readable, strict=True) if fits]
        answers = iter(self._choose(asked) if asked else [])
        return [next(answers) if fits else Verdict(None, TOO_LONG) for fits in readable]

    def _fits(self, question: Question) -> bool:
        return not isinstance(self.scorer, KnowsItsLimit) or self.scorer.fits(question.chat)

    def _choose(self, questions: Sequence[Question]) -> list[Verdict]:
        choices = [[str(number + 1) for number in range(question.choices)] for question in questions]
        assert self.scorer is not None
        scores = self.scorer.score_choices([question.chat for question in questions], choices)
        if [tuple(s.shape) for s in scores] != [(question.choices,) for question in questions]:
            raise RewardError("process.judge: score_choices must return one log-probability for each choice")
        verdicts = []
        for question, score in zip(questions, scores, strict=True):
            probabilities = score.double().softmax(0)
            if not probabilities.isfinite().all():
                raise NonFiniteError(
                    f"the reference model's scores for rollout {question.id} are NaN: look at its checkpoint"
                )
            if not float(score.double().exp().sum()) >= self.min_mass:
                verdicts.append(Verdict(None, UNCLEAR))
                continue
            verdicts.append(Verdict(int(probabilities.argmax()), probabilities=tuple(probabilities.tolist())))
        return verdicts
