"""Process reward: does the T-CoT let a frozen discriminator find its partner? Source: Embed-RL §3.3, Eq. 5, B.2."""

from __future__ import annotations

import logging
import math
from collections import Counter
from typing import Literal, get_args

from embedrl.errors import ConfigError, RewardError
from embedrl.rl.rewards.comparison import compare_roles, margins
from embedrl.rl.rewards.judge import TOO_LONG, ChoiceScorer, Judge, NeedsScorer, Question, Verdict
from embedrl.rl.rewards.notes import EvidenceNotes
from embedrl.rl.rewards.questions import Asked, Candidates, Positives, QuestionOptions, choose_candidates
from embedrl.rl.types import RewardResult, RolloutStep
from embedrl.tcot.prompts import Style
from embedrl.types import Role

Form = Literal["probability", "hit", "margin"]

_PROBABILITIES = "a judge that gives probabilities (of an EndpointJudge: logprobs: true); or take form: hit"
_log = logging.getLogger(__name__)


class ProcessReward:
    """R_p = 1 if the discriminator picks a rollout of the partner out of the shuffled candidates, else 0.

    The candidates of a query's rollout are all rollouts of its target, and of each of the `hard_negatives` nearest
    other pairs the target rollout nearest to it. The discriminator reads the query's text and T-CoT and the candidates'
    T-CoTs alone, numbered in an order drawn from `RolloutStep.seed`. The same the other way round for targets.

    That is the paper's form. In it every rollout of a group has another question: a good T-CoT meets harder negatives,
    and the order differs, so that rewards of a group differ for reasons that are not in the rollouts. With
    `candidates: group` a group has one question: the negatives are those nearest to the mean vector of the group, in
    one order, and what is left of a difference comes from the rollout alone.

    No verdict is no reward: a rollout whose question fails, or which has no negatives, takes no part in the advantage.
    Failures are logged by cause. When more than `max_failures` of the questions fail in `patience` steps in a row, the
    run stops; notes that are too long for the discriminator (`too_long`) do not count for that.

    Args:
        judge: The discriminator: `ReferenceJudge`, `EndpointJudge`, or your own.
        hard_negatives: Number of other pairs among the candidates.
        form: `hit` is the formula above; `margin` pays the rollout's similarity margin (see `margins`) in place of 1,
            as the released code does; `probability` pays the discriminator's probability of the right numbers, which
            tells more of a sure answer than of a lucky one and needs a discriminator that gives probabilities.
        temperature: τ of the margin; unused by the others.
        mask_duplicates: Keep pairs whose target is a known answer to the same query out of the negatives.
        max_failures: Share of failed questions that a step may have.
        patience: Number of consecutive steps above `max_failures` that stop the run.
        candidates: `rollout` or `group`: whether each rollout has candidates of its own.
        positives: `all` rollouts of the partner are among the candidates, or `one`, drawn for the group.
        drop_twins: Leave out negatives whose answer reads like that of a positive among the candidates: no reader of
            text can tell them apart. The next nearest take their place; if none is left, there is no question.
        evidence: Show the crops and key frames of each T-CoT in place, to a judge that sees pictures: for pairs that
            words cannot tell apart.
        style: Style of the question; `brief` is for small models that were taught it, by `embedrl.data.MatchLessons`.

    Raises:
        ConfigError: If an option is out of its range.

    >>> import torch
    >>> from embedrl.rl.types import Rollout
    >>> from embedrl.types import Pair, Side
    >>> class First:  # always takes the first candidate
    ...     name = "first"
    ...     def choose(self, questions):
    ...         return [Verdict(0) for _ in questions]
    >>> pairs = [Pair(Side(f"query {i}"), Side(f"target {i}"), "demo", str(i)) for i in range(2)]
    >>> rollouts = [Rollout(i, role, 0, (), (), f"{role} {i}") for i in range(2) for role in Role]
    >>> vectors = {r.id: torch.eye(2)[r.pair] for r in rollouts}
    >>> ProcessReward(First())(RolloutStep(pairs, rollouts, vectors, {}, frozenset(vectors), seed=1)).values
    {'0/query/0': 1.0, '1/query/0': 1.0, '0/target/0': 0.0, '1/target/0': 1.0}
    """

    name = "process"
    compares_pairs = True

    def __init__(
        self,
        judge: Judge,
        hard_negatives: int = 4,
        form: Form = "hit",
        temperature: float = 0.5,
        mask_duplicates: bool = True,
        max_failures: float = 0.5,
        patience: int = 3,
        candidates: Candidates = "rollout",
        positives: Positives = "all",
        drop_twins: bool = False,
        style: Style = "full",
        evidence: bool = False,
    ) -> None:
        if hard_negatives < 1:
            raise ConfigError(f"process.hard_negatives is {hard_negatives}: give 1 or more")
        choices = {
            "form": (form, get_args(Form)),
            "candidates": (candidates, get_args(Candidates)),
            "positives": (positives, get_args(Positives)),
            "style": (style, get_args(Style)),
        }
        for option, (value, known) in choices.items():
            if value not in known:
                raise ConfigError(f"process.{option} is {value!r}: give {' or '.join(known)}")
        if not temperature > 0:
            raise ConfigError(f"process.temperature is {temperature}: give a positive number, such as 0.5")
        if not 0 <= max_failures < 1:
            raise ConfigError(f"process.max_failures is {max_failures}: give a share from 0 up to, not including, 1")
        if patience < 1:
            raise ConfigError(f"process.patience is {patience}: give 1 or more")
        if form == "probability" and not getattr(judge, "gives_probabilities", True):
            raise ConfigError(f"process.form is probability, which needs {_PROBABILITIES}")
        if evidence and not getattr(judge, "sees_pictures", True):
            raise ConfigError(f"process.evidence: {judge.name} reads words alone; take a CheckpointJudge")
        self.judge = judge
        self.hard_negatives = hard_negatives
        self.form: Form = form
        self.temperature = temperature
        self.mask_duplicates = mask_duplicates
        self.max_failures = max_failures
        self.patience = patience
        self.candidates: Candidates = candidates
        self.positives: Positives = positives
        self.drop_twins = drop_twins
        self.style: Style = style
        self.evidence = evidence
        self._failed_steps = 0

    def bind(self, scorer: ChoiceScorer) -> None:
        """Give the reference model to a judge that needs it."""
        if isinstance(self.judge, NeedsScorer):
            self.judge.bind(scorer)

    def __call__(self, step: RolloutStep) -> RewardResult:
        """Score the rollouts of this process.

        Raises:
            NonFiniteError: If a vector is NaN or infinite.
            RewardError: If the discriminator has failed for too long.
        """
        values: dict[str, float | None] = {}
        asked: list[Asked] = []
        prizes: dict[str, float] = {}
        options = QuestionOptions(self.hard_negatives, self.candidates, self.positives, self.drop_twins)
        for role in Role:
            comparison = compare_roles(step, role, self.mask_duplicates)
            values |= dict.fromkeys(comparison.unjudged)
            ids = [anchor.id for anchor in comparison.anchors]
            prizes |= dict(zip(ids, margins(comparison, self.temperature, "softmax").tolist(), strict=True))
            asked += choose_candidates(step, comparison, options)
        values |= {one.anchor.id: None for one in asked if not one.candidates}
        notes = EvidenceNotes(step) if self.evidence else None
        rows = [(one.question(step, self.style, notes), one.right) for one in asked if one.candidates]
        questions = [question for question, _ in rows]
        verdicts = self._ask(questions)
        hits: list[bool] = []
        for (question, right), verdict in zip(rows, verdicts, strict=True):
            if verdict.index is None:
                values[question.id] = None
                continue
            hits.append(verdict.index in right)
            values[question.id] = self._pay(verdict, right, prizes[question.id])
        metrics = {}
        if hits:
            chance = sum(len(right) / question.choices for question, right in rows) / len(rows)
            metrics = {"hit": sum(hits) / len(hits), "chance": chance}
        causes = Counter(verdict.cause for verdict in verdicts if verdict.index is None)
        metrics |= {f"failed/{cause}": count / len(questions) for cause, count in sorted(causes.items())}
        return RewardResult(values, metrics)

    def _pay(self, verdict: Verdict, right: frozenset[int], prize: float) -> float:
        if self.form == "probability":
            if verdict.probabilities is None:
                raise RewardError(
                    f"{self.judge.name} gives no probabilities; process.form: probability needs {_PROBABILITIES}"
                )
            return math.fsum(verdict.probabilities[i] for i in right)
        won = verdict.index in right
        return (1.0 if self.form == "hit" else prize) if won else 0.0

    def _ask(self, questions: list[Question]) -> list[Verdict]:
        if not questions:
            return []
        verdicts = self.judge.choose(questions)
        if len(verdicts) != len(questions):
            raise RewardError(f"{self.judge.name} gave {len(verdicts)} verdicts on {len(questions)} questions")
        for question, verdict in zip(questions, verdicts, strict=True):
            if verdict.index is not None and not 0 <= verdict.index < question.choices:
                raise RewardError(
                    f"{self.judge.name} chose candidate {verdict.index} of {question.choices} for {question.id}: "
                    "a judge gives positions from 0, or the cause `out_of_range`"
                )
        causes = Counter(verdict.cause for verdict in verdicts if verdict.index is None)
        failed = sum(causes.values())
        broken = failed - causes[TOO_LONG]
        self._failed_steps = self._failed_steps + 1 if broken > self.max_failures * len(questions) else 0
        told = ", ".join(f"{cause} {count}" for cause, count in causes.most_common())
        told += next((f"; one says: {verdict.detail}" for verdict in verdicts if verdict.detail), "")
        if self._failed_steps >= self.patience:
            raise RewardError(
                f"the discriminator {self.judge.name} failed on more than {self.max_failures:.0%} of its questions in "
                f"{self._failed_steps} steps in a row (the last: {failed} of {len(questions)}; {told}): see that it "
                "runs and answers with a number, raise its timeout, lower its concurrency, or delete the process reward"
            )
        if failed:
            _log.warning("%s: no verdict on %d of %d questions (%s)", self.judge.name, failed, len(questions), told)
        return verdicts
