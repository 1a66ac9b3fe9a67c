"""Intervals over seeds and queries: against scipy, against formulas, and against every possible draw."""

import itertools
import json
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from embedrl.errors import ConfigError, DataError
from embedrl.evaluation.report import Report
from embedrl.evaluation.results import SetResult
from embedrl.evaluation.seed_bootstrap import _below, _draw_both, difference, estimate, read_runs


def hits(seed, n=60, p=0.5):
    return (np.random.default_rng(seed).random(n) < p).astype(float)


def test_one_run_each_is_the_paired_bootstrap_of_scipy():
    a, b = hits(0, 200, 0.4), hits(1, 200, 0.6)
    ours = difference({("0",): {"x": a}}, {("0",): {"x": b}}, resamples=4000)
    theirs = stats.bootstrap((b - a,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1))
    assert ours.value == pytest.approx((b - a).mean())
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.015)
    assert ours.error == pytest.approx(theirs.standard_error, rel=0.08)


def test_two_queries_by_every_possible_draw():
    runs = {("0",): {"x": np.array([0.0, 1.0])}}
    means = [np.mean(draw) for draw in itertools.product([0.0, 1.0], repeat=2)]
    ours = estimate(runs, confidence=0.9, resamples=8000)
    assert ours.error == pytest.approx(np.std(means), rel=0.05)
    assert (ours.value, ours.low, ours.high) == (0.5, 0.0, 1.0), "a quarter of the draws each"


def test_seeds_alone():
    """All queries of a run score alike, so that seeds are all that varies: the variance of a mean of draws."""
    levels = [0.1, 0.4, 0.8]
    runs = {(str(i),): {"x": np.full(5, level)} for i, level in enumerate(levels)}
    ours = estimate(runs, resamples=9000)
    assert ours.value == pytest.approx(np.mean(levels))
    assert ours.error == pytest.approx(np.std(levels) / np.sqrt(3), rel=0.05)


def test_nested_seeds():
    """Var = var of group means / groups + mean within-group variance / (groups · runs a group)."""
    table = {("a", "0"): 0.1, ("a", "1"): 0.3, ("b", "0"): 0.6, ("b", "1"): 1.0}
    ours = estimate({key: {"x": np.full(2, level)} for key, level in table.items()}, resamples=9000)
    between = np.var([0.2, 0.8]) / 2
    within = np.mean([np.var([0.1, 0.3]), np.var([0.6, 1.0])]) / (2 * 2)
    assert ours.error == pytest.approx(np.sqrt(between + within), rel=0.05)


def test_seeds_and_queries_add_up():
    """Scores = run + query: the variances of the two levels add."""
    query, run = np.random.default_rng(3).normal(size=40), np.array([0.0, 1.0, 5.0])
    ours = estimate({(str(i),): {"x": query + level} for i, level in enumerate(run)}, resamples=9000)
    assert ours.error == pytest.approx(np.sqrt(np.var(query) / 40 + np.var(run) / 3), rel=0.05)


def test_seeds_that_both_share_cancel():
    luck = {"0": 0.0, "1": 1.0, "2": 3.0}
    first = {(s,): {"x": np.full(4, value)} for s, value in luck.items()}
    second = {(s,): {"x": np.full(4, value + 0.1)} for s, value in luck.items()}
    shared = difference(first, second, resamples=500)
    assert (shared.value, shared.low, shared.high) == pytest.approx((0.1, 0.1, 0.1))
    assert shared.decided
    apart = difference(first, {(f"other {s}",): scores for (s,), scores in second.items()}, resamples=500)
    assert apart.value == pytest.approx(0.1)
    assert apart.low < 0 < apart.high
    assert not apart.decided


def test_a_shared_embedder_cancels_below_other_levels():
    first = {(e,): {"x": np.full(4, v)} for e, v in {"e0": 0.0, "e1": 2.0}.items()}
    second = {(e, r): {"x": np.full(4, v)} for e, v in {"e0": 0.5, "e1": 2.5}.items() for r in ("r0", "r1", "r2")}
    assert difference(first, second, resamples=300).error == pytest.approx(0.0, abs=1e-12)


def test_data_sets_count_alike_whatever_their_sizes():
    runs = {("0",): {"large": np.ones(90), "small": np.zeros(10)}}
    assert estimate(runs, resamples=50).value == pytest.approx(0.5)


def test_an_unbalanced_design_weighs_seeds_not_runs():
    runs = {("a", "0"): {"x": np.zeros(2)}, ("b", "0"): {"x": np.ones(2)}, ("b", "1"): {"x": np.ones(2)}}
    assert estimate(runs, resamples=50).value == pytest.approx(0.5)
    rng = np.random.default_rng(0)
    assert all(sum(_draw_both(runs, {}, (_below(runs), {}), rng)[0]) == pytest.approx(1) for _ in range(20))


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ({}, {("0",): {"x": np.ones(2)}}, "no run"),
        ({("0",): {"x": np.ones(2)}}, {("0",): {"x": np.ones(3)}}, "different queries"),
        ({("0",): {"x": np.ones(2)}, ("0", "1"): {"x": np.ones(2)}}, {("0",): {"x": np.ones(2)}}, "different levels"),
        ({("0",): {"x": np.ones(2)}, ("1",): {"y": np.ones(2)}}, {("0",): {"x": np.ones(2)}}, "different queries"),
        ({("0",): {}}, {("0",): {"x": np.ones(2)}}, "different queries"),
    ],
)
def test_runs_that_cannot_be_compared(first, second, told):
    with pytest.raises(ConfigError, match=told):
        difference(first, second)


def evaluated(folder, scores, data_hash="d"):
    """A folder as `embedrl eval` leaves it, as far as it is read."""
    (folder / "queries").mkdir(parents=True)
    figures = {"hit@1": float(np.mean(scores))}
    result = SetResult("vqa", "world", "hit@1", "1", data_hash, len(scores), 9, None, figures, figures, None, {})
    (folder / "report.json").write_text(json.dumps(asdict(Report("world", (result,), {}, {}, {}))))
    pq.write_table(pa.table({"score": scores}), folder / "queries/vqa.parquet")
    return folder


def test_runs_are_read_from_evaluations(tmp_path):
    a, b = evaluated(tmp_path / "a", [0.0, 1.0, 1.0]), evaluated(tmp_path / "b", [1.0, 1.0, 1.0])
    runs = read_runs({("e0", "r0"): a, ("e0", "r1"): b})
    assert estimate(runs, resamples=20).value == pytest.approx((2 / 3 + 1) / 2)
    with pytest.raises(ConfigError, match="vqa is not the data that the others were scored on"):
        read_runs({("0",): a, ("1",): evaluated(tmp_path / "c", [1.0, 1.0, 1.0], "other")})
    with pytest.raises(DataError, match="no finished evaluation"):
        read_runs({("0",): tmp_path})
