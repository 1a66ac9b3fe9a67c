"""Step credit against plain loops, and what the watermark promises."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_helpers import step_of, unit

from embedrl.errors import ConfigError
from embedrl.rl.rewards.step_credit import StepCreditReward, watermark_gains
from embedrl.types import Role

VARIANTS = StepCreditReward.variants


def with_parts(step, seed=7):
    """The step with other vectors for each part of its T-CoTs."""
    parts = {}
    for number, name in enumerate(VARIANTS):
        rows = unit(len(step.rollouts), seed=seed + number)
        parts[name] = {r.id: row for r, row in zip(step.rollouts, rows, strict=True) if r.id in step.mine}
    return replace(step, variants=parts)


def by_loops(step, temperature, masked):
    """The gains of every rollout, from the definition."""
    gains = {}
    for anchor in step.rollouts:
        own = step.pairs[anchor.pair]
        certainty = []
        for vectors in (*(step.variants[name] for name in VARIANTS), step.vectors):
            scores = {}
            for number, pair in enumerate(step.pairs):
                same = pair.target.key == own.target.key or pair.query.key == own.query.key
                if number != anchor.pair and masked and same:
                    continue
                others = [r.id for r in step.rollouts if r.pair == number and r.role is not anchor.role]
                cosines = [float(vectors[anchor.id] @ step.vectors[other]) for other in others]
                scores[number] = sum(cosines) / len(cosines) / temperature
            certainty.append(scores[anchor.pair] - math.log(sum(math.exp(score) for score in scores.values())))
        best, gains[anchor.id] = certainty[0], []
        for value in certainty[1:]:
            gains[anchor.id].append(max(0.0, value - best))
            best = max(best, value)
    return gains


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_equals_plain_loops(masked, temperature):
    step = with_parts(step_of("abca", "xyzw", 3, missing=2))  # the first and the last ask the same
    result = StepCreditReward(temperature, masked)(step)
    expected = by_loops(step, temperature, masked)
    assert set(result.sections) == {r.id for r in step.rollouts}
    for name, gains in result.sections.items():
        assert gains == pytest.approx(expected[name], abs=1e-9)
        assert result.values[name] == pytest.approx(sum(expected[name]))
    means = [sum(row[k] for row in expected.values()) / len(expected) for k in range(3)]
    assert [result.metrics[f"gain_{name}"] for name in ("thinking", "rethink", "answer")] == pytest.approx(means)


def test_a_process_scores_its_own_and_a_pair_alone_has_no_verdict():
    whole = step_of("abc", "xyz", 2)
    mine = frozenset(r.id for r in whole.rollouts if r.pair == 1)
    part = with_parts(replace(whole, mine=mine))
    assert set(StepCreditReward()(part).sections) == mine
    alone = with_parts(step_of("a", "x", 2))
    result = StepCreditReward()(alone)
    assert set(result.sections.values()) == set(result.values.values()) == {None}
    assert result.metrics == {}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-9, 0), min_size=2, max_size=6))
def test_gains_add_up_to_the_rise_and_a_repeat_earns_nothing(row):
    gains = watermark_gains(torch.tensor([row], dtype=torch.float64))[0]
    assert (gains >= 0).all()
    assert float(gains.sum()) == pytest.approx(max(row) - row[0])
    repeated = [value for value in row for _ in range(2)]
    again = watermark_gains(torch.tensor([repeated], dtype=torch.float64))[0]
    assert float(again.sum()) == pytest.approx(float(gains.sum()))
    assert again[0::2].abs().max() == 0


def test_roles_are_both_scored_and_options_checked():
    result = StepCreditReward()(with_parts(step_of("ab", "xy", 2)))
    assert {role for role in Role if any(f"/{role}/" in name for name in result.sections)} == set(Role)
    with pytest.raises(ConfigError, match=r"step_credit\.temperature is 0"):
        StepCreditReward(0)
