"""Rewards that a reply's text and its lesson decide: nothing is embedded, nothing judged by a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from embedrl.rl.rewards.combine import RewardRow, StepRewards, total_rewards
from embedrl.rl.types import RewardResult, Rollout, RolloutStep
from embedrl.types import Lesson


class ReplyReward(Protocol):
    """A reward that can be verified: a function of a lesson and of what the policy replied to it.

    A class that a YAML names is compared with this one: annotate its `__call__` in the same way.
    """

    @property
    def name(self) -> str:
        """Its name in the log: `reward/<name>` of rollouts, `val/<name>` of greedy replies."""
        ...

    def __call__(self, lesson: Lesson, reply: str) -> float | None:
        """The value of a reply.

        Args:
            lesson: The lesson; `gold` holds what its kind of lesson is judged by.
            reply: The policy's text, without the end of turn. One that was cut off at the length limit ends anywhere.

        Returns:
            A finite number; None is no verdict: the rollout then takes no part in the advantage.
        """
        ...


@dataclass
class ReplyRewardRow:
    """One part of the reward.

    Attributes:
        reward: The reward.
        weight: What it counts in the total; above 0. To leave a reward out, delete its row.
    """

    reward: ReplyReward
    weight: float = 1.0


@dataclass(frozen=True)
class _OfReplies:
    """A reward of replies as one of a step; implements `Reward`.

    Attributes:
        reward: The reward.
        lessons: The lessons by `Rollout.pair`.
    """

    reward: ReplyReward
    lessons: Mapping[int, Lesson]

    @property
    def name(self) -> str:
        return self.reward.name

    def __call__(self, step: RolloutStep) -> RewardResult:
        return RewardResult({r.id: self.reward(self.lessons[r.pair], r.text) for r in step.rollouts})


def step_rows(rows: Sequence[ReplyRewardRow], lessons: Mapping[int, Lesson]) -> list[RewardRow]:
    """The rows in the form that the step of EG-RL takes.

    Args:
        rows: The parts of the reward.
        lessons: The lessons by `Rollout.pair`.
    """
    return [RewardRow(_OfReplies(row.reward, lessons), row.weight) for row in rows]


def total_reply_rewards(
    rows: Sequence[ReplyRewardRow], lessons: Mapping[int, Lesson], rollouts: Sequence[Rollout]
) -> StepRewards:
    """R = Σ weight · part, by rollout id.

    Args:
        rows: The parts of the reward.
        lessons: The lessons by `Rollout.pair`.
        rollouts: This process's rollouts.

    Raises:
        NonFiniteError: If a reward is NaN or infinite.
    """
    mine = frozenset(rollout.id for rollout in rollouts)
    return total_rewards(step_rows(rows, lessons), RolloutStep([], rollouts, {}, {}, mine))


def score_by(rows: Sequence[ReplyRewardRow], lesson: Lesson, reply: str) -> dict[str, float]:
    """Figures of one greedy reply: every part by its name, and `reward`, their weighted sum if all have a verdict."""
    values = {row.reward.name: row.reward(lesson, reply) for row in rows}
    figures = {name: value for name, value in values.items() if value is not None}
    if len(figures) == len(values):
        figures["reward"] = sum(row.weight * figures[row.reward.name] for row in rows)
    return figures
