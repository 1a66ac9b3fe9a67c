"""Process reward: does the T-CoT let a frozen discriminator find its partner? Source: Embed-RL §3.3, Eq. 5, B.2."""

from __future__ import annotations

import logging
import random
from collections import Counter
from typing import Literal

from embedrl.errors import ConfigError, RewardError
from embedrl.rl.rewards.comparison import Comparison, compare_roles, margins
from embedrl.rl.rewards.judge import TOO_LONG, ChoiceScorer, Judge, NeedsScorer, Question, Verdict
from embedrl.rl.types import RewardResult, Rollout, RolloutStep
from embedrl.tcot.schema import clean_text
from embedrl.types import Role
from embedrl.utils.reserved_words import escape

Form = Literal["hit", "margin"]

_log = logging.getLogger(__name__)
_WORDS = {
    Role.QUERY: ("search query", "results it may be looking for", "result it is looking for"),
    Role.TARGET: ("search result", "queries that may be looking for it", "query that is looking for it"),
}


class ProcessReward:
    """R_p = 1 if the discriminator picks a rollout of the partner out of the shuffled candidates, else 0.

    The candidates of a query's rollout are all rollouts of its target, and of each of the `hard_negatives` nearest
    other pairs the target rollout nearest to it. The discriminator reads the query's text and T-CoT and the candidates'
    T-CoTs alone, numbered in an order drawn from `RolloutStep.seed`. The same the other way round for targets.

    No verdict is no reward: a rollout whose question fails, or which has no negatives, takes no part in the advantage.
    Failures are logged by cause. When more than `max_failures` of the questions fail in `patience` steps in a row, the
    run stops; notes that are too long for the discriminator (`too_long`) do not count for that.

    Args:
        judge: The discriminator: `ReferenceJudge`, `EndpointJudge`, or your own.
        hard_negatives: Number of other pairs among the candidates.
        form: `hit` is the formula above; `margin` pays the rollout's similarity margin (see `margins`) in place of 1,
            as the released code does.
        temperature: τ of the margin; unused by `hit`.
        mask_duplicates: Keep pairs whose target is a known answer to the same query out of the negatives.
        max_failures: Share of failed questions that a step may have.
        patience: Number of consecutive steps above `max_failures` that stop the run.

    Raises:
        ConfigError: If an option is out of its range.

    >>> import torch
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
    ) -> None:
        if hard_negatives < 1:
            raise ConfigError(f"process.hard_negatives is {hard_negatives}: give 1 or more")
        if form not in ("hit", "margin"):
            raise ConfigError(f"process.form is {form!r}: give hit or margin")
        if not temperature > 0:
            raise ConfigError(f"process.temperature is {temperature}: give a positive number, such as 0.5")
        if not 0 <= max_failures < 1:
            raise ConfigError(f"process.max_failures is {max_failures}: give a share from 0 up to, not including, 1")
        if patience < 1:
            raise ConfigError(f"process.patience is {patience}: give 1 or more")
        self.judge = judge
        self.hard_negatives = hard_negatives
        self.form: Form = form
        self.temperature = temperature
        self.mask_duplicates = mask_duplicates
        self.max_failures = max_failures
        self.patience = patience
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
        questions: list[Question] = []
        right: list[set[int]] = []  # for each question, the positions of the positives
        prizes: list[float] = []
        for role in Role:
            comparison = compare_roles(step, role, self.mask_duplicates)
            values |= dict.fromkeys(comparison.unjudged)
            prizes += margins(comparison, self.temperature, "softmax").tolist()
            for row, candidates in enumerate(self._candidates(comparison)):
                anchor = comparison.anchors[row]
                random.Random(f"{step.seed}/{anchor.id}").shuffle(candidates)
                questions.append(Question(anchor.id, _prompt(step, anchor, candidates), len(candidates)))
                right.append({i for i, candidate in enumerate(candidates) if candidate.pair == anchor.pair})
        verdicts = self._ask(questions)
        hits: list[bool] = []
        for question, positions, prize, verdict in zip(questions, right, prizes, verdicts, strict=True):
            if verdict.index is None:
                values[question.id] = None
                continue
            hits.append(verdict.index in positions)
            values[question.id] = (1.0 if self.form == "hit" else prize) if hits[-1] else 0.0
        metrics = {}
        if hits:
            chance = sum(len(p) / q.choices for p, q in zip(right, questions, strict=True)) / len(questions)
            metrics = {"hit": sum(hits) / len(hits), "chance": chance}
        causes = Counter(verdict.cause for verdict in verdicts if verdict.index is None)
        metrics |= {f"failed/{cause}": count / len(questions) for cause, count in sorted(causes.items())}
        return RewardResult(values, metrics)

    def _candidates(self, comparison: Comparison) -> list[list[Rollout]]:
        """For each anchor, the rollouts of its partner and the nearest one of each of the nearest other pairs."""
        order = comparison.similarity.masked_fill(~comparison.negative, -float("inf")).argsort(1, descending=True)
        lists = []
        for row, (anchor, count) in enumerate(
            zip(comparison.anchors, comparison.negative.sum(1).tolist(), strict=True)
        ):
            nearest: dict[int, Rollout] = {}
            for column in order[row, :count].tolist():
                candidate = comparison.candidates[column]
                nearest.setdefault(candidate.pair, candidate)
                if len(nearest) == self.hard_negatives:
                    break
            partner = [candidate for candidate in comparison.candidates if candidate.pair == anchor.pair]
            # By id: what the shuffle gives must not depend on the order of the rollouts.
            lists.append(sorted([*partner, *nearest.values()], key=lambda candidate: candidate.id))
        return lists

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


def _prompt(step: RolloutStep, anchor: Rollout, candidates: list[Rollout]) -> str:
    """What the discriminator reads. The candidates' own texts stay out: they would give the partner away."""
    what, options, counterpart = _WORDS[anchor.role]
    pair = step.pairs[anchor.pair]
    text = (pair.query if anchor.role is Role.QUERY else pair.target).text.strip()
    parts = [
        f"Below are notes on a {what}, then numbered notes on {len(candidates)} {options}.",
        *([f"Text of the {what}: {text}"] if text else []),
        f"Notes on the {what}: {anchor.text}",
        *(f"[{number}] {candidate.text}" for number, candidate in enumerate(candidates, start=1)),
        f"Which notes describe the {counterpart} best? Reply with its number only, from 1 to {len(candidates)}.",
    ]
    return escape(clean_text("\n\n".join(parts)))
