"""The total reward: a weighted sum of parts that a recipe lists. Source: Embed-RL §3.3, Eq. 5."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from embedrl.data.variants import Variant
from embedrl.errors import ConfigError, NonFiniteError, RewardError
from embedrl.rl.rewards.judge import ChoiceScorer, NeedsScorer
from embedrl.rl.types import Reward, RolloutStep

TOTAL = "total"


@dataclass
class RewardRow:
    """One part of the reward.

    Attributes:
        reward: The reward.
        weight: What it counts in the total or, of a reward that gives values to sections, its advantage beside that of
            the total; above 0. To leave a reward out, delete its row.
    """

    reward: Reward
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class StepRewards:
    """The rewards of a step.

    Attributes:
        totals: Weighted sum by rollout id, of `RolloutStep.mine` in the step's order; None if any part has no verdict.
        parts: For each reward by name, its unweighted values by rollout id.
        sections: Weight of each reward that gives values to sections, and those values by rollout id; no part of the
            totals.
        metrics: `reward/<name>/mean`, `/std` (of the values there are, with divisor n) and `/invalid` (share without
            verdict) of every part and of `total`, and what the rewards measured themselves. Names may differ between
            processes and steps: a figure that was not measured is not listed.
    """

    totals: dict[str, float | None]
    parts: dict[str, dict[str, float | None]]
    metrics: dict[str, float]
    sections: list[tuple[float, Mapping[str, tuple[float, ...] | None]]] = field(default_factory=list)


def check_rewards(rows: Sequence[RewardRow]) -> list[str]:
    """The names of the rewards.

    Raises:
        ConfigError: If there is none, two have one name, or a weight is not above 0.
    """
    names = [row.reward.name for row in rows]
    if not names:
        raise ConfigError("model.rewards is empty: EG-RL needs at least one row {reward, weight}")
    for name, row in zip(names, rows, strict=True):
        if names.count(name) > 1 or name == TOTAL:
            raise ConfigError(f"model.rewards: the name {name!r} is taken: give the reward's class another `name`")
        if not 0 < row.weight < math.inf:
            raise ConfigError(
                f"model.rewards: weight {row.weight} of {name}: give a number above 0; to leave it out, delete it"
            )
    return names


def bind_scorer(rows: Iterable[RewardRow], scorer: ChoiceScorer) -> None:
    """Pass the reference model to the rewards that use it."""
    for row in rows:
        if isinstance(row.reward, NeedsScorer):
            row.reward.bind(scorer)


def needed_variants(rows: Iterable[RewardRow]) -> tuple[Variant, ...]:
    """The parts of T-CoTs that the rewards read, each once."""
    return tuple(dict.fromkeys(name for row in rows for name in getattr(row.reward, "variants", ())))


def total_rewards(rows: Sequence[RewardRow], step: RolloutStep) -> StepRewards:
    """R = Σ weight · part, by rollout id, over the parts that give no values to sections.

    Raises:
        NonFiniteError: If a reward is NaN or infinite.
        RewardError: If a reward does not answer for every rollout of this process.

    >>> from embedrl.rl.rewards.format import FormatReward
    >>> from embedrl.rl.types import Rollout
    >>> from embedrl.tcot.parser import parse
    >>> from embedrl.types import Modality, Role
    >>> rollout = Rollout(0, Role.QUERY, 0, (), (), "no tags")
    >>> step = RolloutStep([], [rollout], {}, {rollout.id: parse("no tags", Modality.TEXT)}, frozenset([rollout.id]))
    >>> total_rewards([RewardRow(FormatReward(), 0.05)], step).totals
    {'0/query/0': 0.0}
    """
    ids = [rollout.id for rollout in step.rollouts if rollout.id in step.mine]
    parts: dict[str, dict[str, float | None]] = {}
    metrics: dict[str, float] = {}
    sections: list[tuple[float, Mapping[str, tuple[float, ...] | None]]] = []
    summed: list[RewardRow] = []
    for name, row in zip(check_rewards(rows), rows, strict=True):
        result = row.reward(step)
        given = result.values.keys() if result.sections is None else result.values.keys() & result.sections.keys()
        missing = [rollout for rollout in ids if rollout not in given]
        if missing:
            raise RewardError(
                f"the reward {name} says nothing on {len(missing)} rollouts (first: {missing[0]}): it must give every "
                "rollout of the process a number, or None for no verdict"
            )
        parts[name] = {rollout: result.values[rollout] for rollout in ids}
        _refuse_non_finite(name, parts[name])
        if result.sections is None:
            summed.append(row)
        else:
            sections.append((row.weight, {rollout: result.sections[rollout] for rollout in ids}))
        metrics |= {f"reward/{name}/{metric}": value for metric, value in result.metrics.items()}
        metrics |= _figures(name, parts[name])
    totals = {rollout: _weighted([(row.weight, parts[row.reward.name][rollout]) for row in summed]) for rollout in ids}
    return StepRewards(totals, parts, metrics | _figures(TOTAL, totals), sections)


def _weighted(terms: Iterable[tuple[float, float | None]]) -> float | None:
    total = 0.0
    for weight, value in terms:
        if value is None:
            return None
        total += weight * value
    return total


def _refuse_non_finite(name: str, values: Mapping[str, float | None]) -> None:
    broken = [rollout for rollout, value in values.items() if value is not None and not math.isfinite(value)]
    if broken:
        raise NonFiniteError(
            f"the reward {name} of {len(broken)} rollouts is NaN or infinite (first: {broken[0]}): no verdict is None"
        )


def _figures(name: str, values: Mapping[str, float | None]) -> dict[str, float]:
    there = [value for value in values.values() if value is not None]
    figures = {f"reward/{name}/invalid": 1 - len(there) / len(values)} if values else {}
    if there:
        mean = math.fsum(there) / len(there)
        figures[f"reward/{name}/mean"] = mean
        figures[f"reward/{name}/std"] = math.sqrt(math.fsum((value - mean) ** 2 for value in there) / len(there))
    return figures
