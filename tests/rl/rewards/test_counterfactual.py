"""Counterfactual evidence: the outcome's margin with the crops minus that without them."""

from dataclasses import replace

import pytest
import torch
from reward_helpers import step_of, unit

from embedrl.errors import ConfigError
from embedrl.rl.rewards.counterfactual import CounterfactualReward


def margin(step, anchor, vector, temperature):
    """The margin of one rollout, from the definition."""
    positives, negatives = [], []
    for other in step.rollouts:
        if other.role is not anchor.role:
            (positives if other.pair == anchor.pair else negatives).append(float(vector @ step.vectors[other.id]))
    weights = torch.tensor(negatives, dtype=torch.float64).div(temperature).exp()
    weighted = float((weights / weights.sum()) @ torch.tensor(negatives, dtype=torch.float64))
    return sum(positives) / len(positives) - weighted


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_equals_the_difference_of_two_margins(temperature):
    step = step_of("abc", "xyz", 3)
    bare = dict(zip((r.id for r in step.rollouts), unit(len(step.rollouts), seed=5), strict=True))
    same = step.rollouts[4].id
    bare[same] = step.vectors[same]
    step = replace(step, variants={"no_evidence": bare})
    result = CounterfactualReward(temperature)(step)
    for rollout in step.rollouts:
        with_it, without = (margin(step, rollout, v[rollout.id], temperature) for v in (step.vectors, bare))
        assert result.values[rollout.id] == pytest.approx(with_it - without, abs=1e-9)
    assert result.values[same] == 0.0  # a side without evidence
    others = [value for name, value in result.values.items() if name != same]
    assert result.metrics["helped"] == pytest.approx(sum(value > 0 for value in others) / len(others))


def test_nothing_to_compare_with_is_no_verdict():
    step = replace(step_of("a", "x", 2), variants={"no_evidence": {}})
    result = CounterfactualReward()(step)
    assert set(result.values.values()) == {None}
    with pytest.raises(ConfigError, match=r"counterfactual\.temperature is -1"):
        CounterfactualReward(-1)
