"""The control: rewards dealt out at random within their groups."""

from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from reward_helpers import step_of

from embedrl.rl.rewards.combine import RewardRow, total_rewards
from embedrl.rl.rewards.format import FormatReward
from embedrl.rl.rewards.outcome import OutcomeReward
from embedrl.rl.rewards.permuted import PermutedReward
from embedrl.rl.types import RewardResult


def grouped(step, values):
    groups = defaultdict(list)
    for rollout in step.rollouts:
        groups[rollout.group].append(values[rollout.id])
    return {group: Counter(round(value, 9) for value in found) for group, found in groups.items()}


def test_each_group_keeps_its_rewards_and_another_seed_deals_them_otherwise():
    step = step_of("abcd", "wxyz", 8)
    plain, dealt = OutcomeReward()(step), PermutedReward(OutcomeReward())(step)
    assert grouped(step, dealt.values) == grouped(step, plain.values)
    assert dealt.values != plain.values
    assert dealt.metrics == plain.metrics
    again = PermutedReward(OutcomeReward())(replace(step, rollouts=step.rollouts[::-1]))
    assert again.values == pytest.approx(dealt.values, abs=1e-12)
    assert PermutedReward(OutcomeReward())(replace(step, seed=1)).values != dealt.values


def test_parts_of_a_total_are_permuted_alike():
    step = step_of("abcd", "wxyz", 8)
    rows = [RewardRow(FormatReward(), 0.5), RewardRow(OutcomeReward(), 0.5)]
    totals = total_rewards(rows, step).totals
    dealt = total_rewards([RewardRow(PermutedReward(row.reward), row.weight) for row in rows], step).totals
    assert grouped(step, dealt) == grouped(step, totals)


def test_values_of_sections_move_with_their_rollout():
    class Sections:
        name, variants = "sections", ("thinking",)

        def __call__(self, step):
            gains = {r.id: (float(r.index), 0.0, 1.0) for r in step.rollouts}
            return RewardResult({name: sum(row) for name, row in gains.items()}, sections=gains)

    reward, step = PermutedReward(Sections()), step_of("ab", "xy", 8, seed=2)
    result = reward(step)
    assert reward.variants == ("thinking",)
    assert [row[0] + 1.0 for row in result.sections.values()] == list(result.values.values())
    assert result.sections != Sections()(step).sections
    assert PermutedReward(OutcomeReward())(step).sections is None
