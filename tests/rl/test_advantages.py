import math
from statistics import mean, stdev

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.trainer.utils import nanstd

from embedrl.errors import NonFiniteError
from embedrl.rl import advantages as advantage
from embedrl.rl.advantages import group_advantages

REWARDS = st.floats(-5, 5).map(lambda x: round(x, 3))


def laid_out(table):
    """Rows of rewards → rewards by id, groups by id."""
    rewards = {f"{g}/{i}": value for g, row in enumerate(table) for i, value in enumerate(row)}
    return rewards, {name: name.split("/")[0] for name in rewards}


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 8).flatmap(lambda n: st.lists(st.lists(REWARDS, min_size=n, max_size=n), min_size=1, max_size=5)))
def test_equals_trl_without_a_floor(table):
    """TRL: (reward - mean) / (nanstd + 1e-4), with its own `nanstd`."""
    rewards = torch.tensor(table, dtype=torch.float64)
    trl, plain = (
        (rewards - rewards.mean(1, keepdim=True)) / (std + 1e-4)
        for std in (nanstd(rewards, dim=1, keepdim=True), rewards.std(1, keepdim=True))
    )
    result = group_advantages(*laid_out(table))
    for g in range(len(table)):
        for i in range(len(table[0])):
            value = result.values[f"{g}/{i}"]
            assert value == pytest.approx(trl[g, i].item(), abs=1e-6)  # its `nanstd` has a float32 factor
            assert value == pytest.approx(plain[g, i].item(), abs=1e-9)
    flat = sum(max(row) == min(row) for row in table)
    assert result.zero_variance == flat
    assert result.groups == len(table)
    filtered = group_advantages(*laid_out(table), filter_groups=True).values
    assert len(filtered) == (len(table) - flat) * len(table[0])
    assert filtered.items() <= result.values.items()


def test_equals_trl_where_a_verdict_is_missing():
    table = torch.tensor([[0.3, torch.nan, 0.9, 0.1]], dtype=torch.float64)
    expected = (table - table.nanmean()) / (nanstd(table, dim=1, keepdim=True) + 1e-4)
    result = group_advantages(*laid_out([[0.3, None, 0.9, 0.1]]))
    assert "0/1" not in result.values
    assert result.no_verdict == 1
    assert [result.values[f"0/{i}"] for i in (0, 2, 3)] == pytest.approx(expected[0, [0, 2, 3]].tolist())


def test_the_floor_bounds_what_is_divided_by():
    table = [[0.50, 0.52], [0.0, 1.0]]
    result = group_advantages(*laid_out(table), std_floor=0.1)
    assert result.values["0/1"] == pytest.approx(0.01 / 0.1001)
    assert result.values["1/1"] == pytest.approx((1 - mean(table[1])) / (stdev(table[1]) + 1e-4))


@settings(max_examples=30, deadline=None)
@given(st.lists(REWARDS, min_size=3, max_size=8), st.floats(0.5, 20), st.floats(-5, 5), st.randoms())
def test_shift_and_order_change_nothing_and_scale_hardly(row, scale, shift, rng):
    plain = group_advantages(*laid_out([row])).values
    rewards, groups = laid_out([row])
    names = list(rewards)
    rng.shuffle(names)
    assert group_advantages({name: rewards[name] for name in names}, groups).values == plain
    moved = group_advantages({name: scale * value + shift for name, value in rewards.items()}, groups).values
    if plain and stdev(row) > 0.01:  # below, the 1e-4 in the divisor shows
        assert moved == pytest.approx(plain, abs=0.03)
        assert math.fsum(plain.values()) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("row", "zero_variance", "too_small", "no_verdict"),
    [
        ([0.5], 0, 1, 0),
        ([0.5, None], 0, 1, 1),
        ([None, None], 0, 1, 2),
        ([0.5, 0.5, 0.5], 1, 0, 0),
        ([0.5, 0.5 + 1e-8], 1, 0, 0),  # rounding, no difference
        ([0.1 + 0.2, 0.3], 1, 0, 0),
        ([0.5, None, 0.5], 1, 0, 1),
        ([0.5, 0.51], 0, 0, 0),
    ],
)
@pytest.mark.parametrize("filter_groups", [False, True])
def test_groups_that_say_nothing_are_counted(row, zero_variance, too_small, no_verdict, filter_groups):
    """Their advantages are 0, for they count in the mean of the loss; or they are left out."""
    result = group_advantages(*laid_out([row, [0.0, 1.0]]), filter_groups=filter_groups)
    assert (result.zero_variance, result.too_small, result.no_verdict) == (zero_variance, too_small, no_verdict)
    assert result.groups == 2
    own = {name: value for name, value in result.values.items() if name.startswith("0/")}
    if zero_variance or too_small:
        judged = {f"0/{i}": 0.0 for i, reward in enumerate(row) if reward is not None}
        assert own == ({} if filter_groups else judged)
    else:
        assert own["0/1"] > 0 > own["0/0"]
    assert result.values["1/1"] > 0 > result.values["1/0"]


def test_the_best_of_each_group():
    """It alone takes part; of equals the first by name, in whatever order they come."""
    table = [[0.1, 0.9, None, 0.9], [0.5, 0.5], [None, 0.2], [-2.0, -1.0]]
    rewards, groups = laid_out(table)
    assert group_advantages(rewards, groups, filter_groups=True, scale="best").values == {"0/1": 1.0, "3/1": 1.0}
    turned = dict(reversed(rewards.items()))
    found = group_advantages(turned, groups, scale="best")
    assert found.values == {"0/1": 1.0, "3/1": 1.0, "1/0": 0.0, "1/1": 0.0, "2/1": 0.0}
    assert (found.zero_variance, found.too_small, found.no_verdict) == (1, 1, 2)


def test_nothing_gives_nothing():
    assert group_advantages({}, {}) == advantage.GroupAdvantages({}, 0, 0, 0, 0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_refuses_what_is_not_finite(value):
    with pytest.raises(NonFiniteError, match="first: 0/1"):
        group_advantages(*laid_out([[0.0, value, 1.0]]))
