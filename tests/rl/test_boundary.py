"""The combination law: by hand, and found again in rollouts that were drawn by it."""

import numpy as np
import pytest

from embedrl.errors import DataError
from embedrl.rl.boundary import Boundary, combine, fit_boundary, zone


def drawn(truth, pairs=1500, trials=8, seed=0):
    rng = np.random.default_rng(seed)
    difficulties = np.stack([rng.integers(3, 10, pairs), rng.integers(1, 4, pairs)], axis=1).astype(float)
    wins = rng.binomial(trials, truth.success(difficulties)).astype(float)
    return difficulties, wins, np.full(pairs, float(trials))


def test_the_text_maths_of_the_source():
    """D = 1 / (7 / plan + 1.6e5 / (calc + 2e4)), as its code has it."""
    plan, calc = np.array([3.0, 8.0]), np.array([5e3, 9e5])
    ours = combine(np.stack([plan, calc], axis=1), np.array([7.0, 1.6e5]), np.array([0.0, -2e4]))
    assert ours == pytest.approx(1 / (7 / plan + 1.6e5 / (calc + 2e4)))


def test_the_boundaries_are_where_success_is_90_and_10_percent():
    law = Boundary(("x", "y"), (0.3, 0.7), (0.0, -1.0), 4.0, 3.0)
    easy, hard = law.at(0.9), law.at(0.1)
    assert easy < hard
    flat = Boundary(("x",), (1.0,), (0.0,), 4.0, 3.0)
    assert flat.success(np.array([[easy], [hard]])) == pytest.approx([0.9, 0.1])
    assert Boundary(("x",), (1.0,), (0.0,), 4.0, 0.0).at(0.9) is None


def test_a_law_is_found_again():
    truth = Boundary(("objects", "steps"), (0.4, 0.6), (0.0, 0.0), 3.0, 4.0)
    difficulties, wins, trials = drawn(truth)
    law = fit_boundary(truth.names, difficulties, wins, trials)
    assert np.abs(law.success(difficulties) - truth.success(difficulties)).max() < 0.06
    assert law.at(0.5) is not None
    assert sum(law.weights) == pytest.approx(1)
    assert 0.1 < law.r2 < 1
    assert law.pairs == 1500
    # As the inverse of its own law, the boundary at 50 % is that of the truth: equal D, equal success.
    order = np.argsort(law.combined(difficulties))
    assert np.all(np.diff(law.success(difficulties)[order]) <= 1e-12)


def test_what_does_not_matter_has_no_say():
    truth = Boundary(("objects",), (1.0,), (0.0,), 6.0, 3.5)
    rng = np.random.default_rng(1)
    objects = rng.integers(3, 10, 2000).astype(float)[:, None]
    noise = rng.integers(1, 4, 2000).astype(float)[:, None]
    wins = rng.binomial(8, truth.success(objects)).astype(float)
    law = fit_boundary(("objects", "noise"), np.hstack([objects, noise]), wins, np.full(2000, 8.0))
    here = np.array([[6.0, 1.0], [6.0, 3.0]])
    assert np.ptp(law.success(here)) < 0.06
    assert np.ptp(law.success(np.array([[3.0, 2.0], [9.0, 2.0]]))) > 0.5


def test_success_that_does_not_depend_on_difficulty_explains_nothing():
    rng = np.random.default_rng(2)
    difficulties = rng.integers(1, 9, (500, 1)).astype(float)
    law = fit_boundary(("x",), difficulties, rng.binomial(8, 0.5, 500).astype(float), np.full(500, 8.0))
    assert law.r2 < 0.01
    assert law.success(np.array([[1.0], [8.0]])) == pytest.approx([0.5, 0.5], abs=0.08)


def test_a_dimension_in_which_all_are_alike_has_no_weight():
    truth = Boundary(("x",), (1.0,), (0.0,), 6.0, 3.5)
    rng = np.random.default_rng(3)
    x = rng.integers(3, 10, 300).astype(float)[:, None]
    wins = rng.binomial(8, truth.success(x)).astype(float)
    law = fit_boundary(("frames", "x"), np.hstack([np.ones_like(x), x]), wins, np.full(300, 8.0))
    assert law.weights == (0.0, 1.0)


@pytest.mark.parametrize("pairs", [0, 1, 5])
def test_nothing_to_fit(pairs):
    with pytest.raises(DataError, match=f"nothing to fit a boundary on: {pairs} pairs"):
        fit_boundary(("x",), np.ones((pairs, 1)), np.ones(pairs), np.ones(pairs))


def test_zones():
    assert [zone(share) for share in (1.0, 0.9)] == ["feasible"] * 2
    assert [zone(share) for share in (0.89, 0.11)] == ["partial"] * 2
    assert [zone(share) for share in (0.1, 0.0)] == ["infeasible"] * 2
