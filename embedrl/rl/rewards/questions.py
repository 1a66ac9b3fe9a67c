"""The questions of the process reward: against which candidates a rollout is set. Source: Embed-RL §3.3, Eq. 5."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from embedrl.rl.rewards.comparison import Comparison, group_similarity
from embedrl.rl.rewards.judge import Question
from embedrl.rl.rewards.notes import EvidenceNotes, evidence_content
from embedrl.rl.types import Rollout, RolloutStep
from embedrl.tcot.chat import side_of
from embedrl.tcot.matching import match_prompt
from embedrl.tcot.prompts import Style

Candidates = Literal["rollout", "group"]
Positives = Literal["all", "one"]


@dataclass(frozen=True, slots=True)
class QuestionOptions:
    """Which questions are asked; see `ProcessReward`.

    Attributes:
        hard_negatives: Number of other pairs among the candidates.
        candidates: `rollout`: each rollout meets the candidates nearest to itself; `group`: all of a group meet the
            same ones in the same order.
        positives: All rollouts of the partner, or one, drawn for the group.
        drop_twins: Leave out negatives whose answer reads like a shown positive's.
    """

    hard_negatives: int
    candidates: Candidates
    positives: Positives
    drop_twins: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """The rollout that an answer rewards, and the candidates that it is set against.

    Attributes:
        anchor: The rollout.
        candidates: The candidates in their order; none if no negative is left.
    """

    anchor: Rollout
    candidates: tuple[Rollout, ...] = ()

    @property
    def right(self) -> frozenset[int]:
        """Positions of the positives."""
        return frozenset(i for i, candidate in enumerate(self.candidates) if candidate.pair == self.anchor.pair)

    def question(self, step: RolloutStep, style: Style, evidence: EvidenceNotes | None = None) -> Question:
        """What the discriminator is asked. The candidates' own texts stay out: they would give the partner away.

        Args:
            step: The step.
            style: Style of the question.
            evidence: Shows the notes with their evidence, of the same step; None shows words alone.
        """
        text = side_of(step.pairs[self.anchor.pair], self.anchor.role).text
        notes = tuple(candidate.text for candidate in self.candidates)
        prompt = match_prompt(self.anchor.role, text, self.anchor.text, notes, style)
        content = None
        if evidence is not None:
            shown = [evidence.parts(candidate) for candidate in self.candidates]
            content = evidence_content(self.anchor.role, text, evidence.parts(self.anchor), shown, style)
        anchor = f"{text.strip()}\n{self.anchor.text}".strip()
        return Question(self.anchor.id, prompt, len(notes), anchor, notes, content)


def choose_candidates(step: RolloutStep, comparison: Comparison, options: QuestionOptions) -> list[Asked]:
    """The candidates of each anchor, in order.

    Whatever is drawn depends on the seed of the step and on the names of rollouts alone: every process draws the same.
    """
    if not comparison.anchors:
        return []
    by_group = options.candidates == "group"
    similarity = group_similarity(step, comparison) if by_group else comparison.similarity
    order = similarity.masked_fill(~comparison.negative, -float("inf")).argsort(1, descending=True)
    asked = []
    for row, anchor in enumerate(comparison.anchors):
        partner = sorted((c for c in comparison.candidates if c.pair == anchor.pair), key=lambda c: c.id)
        if options.positives == "one":
            partner = [random.Random(f"{step.seed}/positive/{anchor.group}").choice(partner)]
        nearest = _nearest(step, comparison, order[row], row, partner, options)
        if not nearest:
            asked.append(Asked(anchor))
            continue
        # By id: what the shuffle gives must not depend on the order of the rollouts.
        candidates = sorted([*partner, *nearest], key=lambda candidate: candidate.id)
        random.Random(f"{step.seed}/{anchor.group if by_group else anchor.id}").shuffle(candidates)
        asked.append(Asked(anchor, tuple(candidates)))
    return asked


def _nearest(
    step: RolloutStep, comparison: Comparison, order: Tensor, row: int, partner: list[Rollout], options: QuestionOptions
) -> list[Rollout]:
    """The nearest rollout of each of the nearest other pairs."""
    answers = {_answer(step, rollout) for rollout in partner} - {""} if options.drop_twins else set()
    nearest: dict[int, Rollout] = {}
    for column in order[: int(comparison.negative[row].sum())].tolist():
        candidate = comparison.candidates[column]
        if candidate.pair in nearest or (answers and _answer(step, candidate) in answers):
            continue
        nearest[candidate.pair] = candidate
        if len(nearest) == options.hard_negatives:
            break
    return list(nearest.values())


def _answer(step: RolloutStep, rollout: Rollout) -> str:
    """The answer that a rollout gives; empty without one, which makes no twins: the other parts may differ."""
    return " ".join(step.parsed[rollout.id].tcot.answer.lower().split())
