"""Format and outcome."""

import math
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_helpers import GOOD, coarse, step_of, unit

from embedrl.errors import ConfigError, NonFiniteError, RewardError
from embedrl.rl.rewards.format import FormatReward
from embedrl.rl.rewards.outcome import OutcomeReward
from embedrl.rl.types import Rollout, RolloutStep
from embedrl.tcot.parser import build, parse
from embedrl.types import Modality, Role

BOX = build(Modality.IMAGE, "Look.", "Only this.", "A thing.", boxes=[(1, 2, 30, 40)]).render()
ONE_BOX = BOX.replace("[[", "[").replace("]]", "]")


@pytest.mark.parametrize(
    ("text", "modality", "truncated", "expected"),
    [
        (GOOD, Modality.TEXT, False, 1.0),
        (BOX, Modality.IMAGE, False, 1.0),
        (GOOD, Modality.TEXT, True, 0.0),
        (GOOD, Modality.IMAGE, False, 0.0),
        (BOX, Modality.TEXT, False, 0.0),
        (GOOD + "and more", Modality.TEXT, False, 0.0),
        (GOOD.replace("rethink", "rethinking"), Modality.TEXT, False, 0.0),
        (GOOD[: -len("</answer>")], Modality.TEXT, False, 0.0),
        ("", Modality.TEXT, False, 0.0),
    ],
)
def test_format(text, modality, truncated, expected):
    rollout = Rollout(0, Role.QUERY, 0, (), (), text, truncated)
    step = RolloutStep([], [rollout], {}, {rollout.id: parse(text, modality)}, frozenset([rollout.id]))
    assert FormatReward()(step).values == {rollout.id: expected}


@pytest.mark.parametrize(("strict", "text", "expected"), [
    (False, BOX, 1.0), (True, BOX, 1.0), (False, ONE_BOX, 1.0), (True, ONE_BOX, 0.0),
])  # fmt: skip
def test_one_box_counts_unless_a_list_is_asked_for(strict, text, expected):
    rollout = Rollout(0, Role.QUERY, 0, (), (), text)
    step = RolloutStep([], [rollout], {}, {rollout.id: parse(text, Modality.IMAGE)}, frozenset([rollout.id]))
    assert FormatReward(strict_boxes=strict)(step).values == {rollout.id: expected}


def test_format_scores_what_is_asked():
    step = step_of("ab", "ab", 2, mine={"0/query/1", "1/target/0"})
    assert set(FormatReward()(step).values) == {"0/query/1", "1/target/0"}


def known(step, i, j):
    """Whether the target of pair j is an answer to the query of pair i."""
    answers = {p.target.key for p in step.pairs if p.query.key == step.pairs[i].query.key}
    return step.pairs[j].target.key in answers


def brute_force(step, tau=0.5, negatives="softmax", mask_duplicates=True):
    """The formula, rollout by rollout, with lists."""
    values = {}
    for o in step.rollouts:
        positives, others = [], []
        for c in step.rollouts:
            if c.role == o.role:
                continue
            similarity = sum(
                a * b for a, b in zip(step.vectors[o.id].tolist(), step.vectors[c.id].tolist(), strict=True)
            )
            if c.pair == o.pair:
                positives.append(similarity)
                continue
            query, target = (o.pair, c.pair) if o.role is Role.QUERY else (c.pair, o.pair)
            if not (mask_duplicates and known(step, query, target)):
                others.append(similarity)
        if not positives or not others:
            values[o.id] = None
            continue
        # Best first; a negative stands before a positive that is not 1e-6 better.
        ranked = sorted([(-round(s, 9), 1) for s in positives] + [(-round(s + 1e-6, 9), 0) for s in others])
        accuracy = sum(is_positive for _, is_positive in ranked[: len(positives)]) / len(positives)
        weights = [math.exp(s / tau) if negatives == "softmax" else 1.0 for s in others]
        margin = sum(positives) / len(positives)
        margin -= sum(w * s for w, s in zip(weights, others, strict=True)) / sum(weights)
        values[o.id] = accuracy * margin
    return values


def same(values, expected):
    assert set(values) == set(expected)
    for name, value in expected.items():
        assert values[name] == (None if value is None else pytest.approx(value, abs=1e-9)), name


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("uvwx")), min_size=1, max_size=5),
    st.integers(1, 4),
    st.integers(0, 6),
    st.sampled_from([unit, coarse]),
    st.sampled_from(["softmax", "uniform"]),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_outcome_equals_the_double_loop(contents, groups, missing, vectors, negatives, mask, seed):
    queries, targets = zip(*contents, strict=True)
    missing = min(missing, 2 * groups * len(contents) - 1)
    step = step_of(queries, targets, groups, vectors, seed=seed, missing=missing)
    result = OutcomeReward(0.5, negatives, mask)(step)
    same(result.values, brute_force(step, 0.5, negatives, mask))


def test_outcome_equals_the_double_loop_at_the_size_of_the_paper():
    step = step_of(range(8), range(8), 8, lambda rows, seed: unit(rows, 16, seed).float())
    same(OutcomeReward(0.5)(step).values, brute_force(step, 0.5))


@pytest.mark.parametrize("tau", [0.01, 0.5, 100.0])
def test_the_temperature_leads_from_the_hardest_negative_to_their_mean(tau):
    step = step_of(range(4), range(4), 3)
    same(OutcomeReward(tau)(step).values, brute_force(step, tau))
    if tau == 100.0:
        uniform = OutcomeReward(negatives="uniform")(step).values
        assert OutcomeReward(1e6)(step).values == pytest.approx(uniform, abs=1e-6)


def test_a_tie_goes_to_the_negative():
    """All vectors equal: no positive is among the nearest, although half of all candidates are positives."""
    step = step_of("ab", "ab", 4, lambda rows, seed: torch.ones(rows, 1))
    result = OutcomeReward()(step)
    assert result.metrics["accuracy"] == 0
    assert set(result.values.values()) == {0.0}


def test_a_tie_by_rounding_goes_to_the_negative_wherever_it_stands():
    vectors = unit(1, 64).float() + 1e-8 * torch.arange(24)[:, None]
    for order in (range(24), reversed(range(24))):
        step = step_of("abc", "abc", 4, lambda rows, seed, order=tuple(order): vectors[list(order)])
        assert OutcomeReward()(step).metrics["accuracy"] == 0


def test_perfect_vectors_have_the_reward_of_the_formula():
    """One axis a pair: accuracy 1, positives at 1, negatives at 0."""
    step = step_of(range(3), range(3), 2, lambda rows, seed: torch.eye(3).repeat_interleave(4, 0))
    assert set(OutcomeReward()(step).values.values()) == {1.0}


@pytest.mark.parametrize(("contents", "judged"), [("a", False), ("aa", False), ("ab", True)])
def test_nothing_to_compare_with_is_no_verdict(contents, judged):
    result = OutcomeReward()(step_of(contents, contents, 2))
    assert all((value is not None) == judged for value in result.values.values())
    assert bool(result.metrics) == judged
    assert len(result.values) == 4 * len(contents)


def test_a_side_without_rollouts_is_no_verdict_for_its_partner_alone():
    step = step_of("abc", "abc", 2)
    rollouts = [r for r in step.rollouts if r.group != "1/target"]
    values = OutcomeReward()(replace(step, rollouts=rollouts)).values
    assert {name for name, value in values.items() if value is None} == {"1/query/0", "1/query/1"}
    assert set(values) == {r.id for r in rollouts}


def test_duplicates_count_as_negatives_only_on_request():
    """Pairs 0 and 1 share their target; its rollouts have one vector."""
    vectors = torch.tensor([[1.0, 0], [1, 0], [1, 0], [1, 0], [0, 1], [0, 1]])
    step = step_of("abc", "xxy", 1, lambda rows, seed: vectors)
    assert set(OutcomeReward()(step).values.values()) == {1.0}
    paper = OutcomeReward(mask_duplicates=False)(step).values
    assert paper["0/query/0"] == paper["1/target/0"] == 0
    assert paper["2/query/0"] == 1


@settings(max_examples=15, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 100))
def test_every_reward_stays_with_its_rollout(rng, seed):
    step = step_of("abcd", "wxyz", 3, seed=seed)
    rollouts = list(step.rollouts)
    rng.shuffle(rollouts)
    plain, shuffled = OutcomeReward()(step).values, OutcomeReward()(replace(step, rollouts=rollouts)).values
    assert shuffled == pytest.approx(plain, abs=1e-12)
    assert len(set(plain.values())) > 5


def test_pairs_in_another_order_have_the_same_rewards():
    step = step_of("abcd", "wxyz", 3)
    order = [2, 0, 3, 1]
    rename = {r.id: replace(r, pair=order.index(r.pair)) for r in step.rollouts}
    moved = RolloutStep(
        [step.pairs[i] for i in order],
        list(rename.values()),
        {rename[name].id: vector for name, vector in step.vectors.items()},
        {},
        frozenset(r.id for r in rename.values()),
    )
    values = OutcomeReward()(moved).values
    assert {name: values[rename[name].id] for name in rename} == pytest.approx(OutcomeReward()(step).values)


def test_processes_that_share_a_step_find_what_one_finds():
    whole = step_of(range(5), range(5), 3)
    ids = [r.id for r in whole.rollouts]
    random.Random(0).shuffle(ids)
    parts = [OutcomeReward()(replace(whole, mine=frozenset(mine))).values for mine in (ids[:11], ids[11:])]
    assert len(parts[0]) == 11
    assert parts[0] | parts[1] == pytest.approx(OutcomeReward()(whole).values, abs=1e-12)


def test_autocast_and_gradients_change_nothing():
    step = step_of(range(4), range(4), 2, lambda rows, seed: unit(rows, 8, seed).float().requires_grad_())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert OutcomeReward()(step).values == OutcomeReward()(step).values
        same(OutcomeReward()(step).values, brute_force(step))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_refuses_vectors_that_are_not_finite(value):
    step = step_of("ab", "ab", 2)
    step.vectors["1/target/0"][0] = value
    with pytest.raises(NonFiniteError, match="1/target/0"):
        OutcomeReward()(step)


def test_refuses_a_rollout_without_a_vector():
    step = step_of("ab", "ab", 2)
    vectors = {name: vector for name, vector in step.vectors.items() if name != "0/query/1"}
    with pytest.raises(RewardError, match="0/query/1"):
        OutcomeReward()(replace(step, vectors=vectors))


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"temperature": -1.0}, {"temperature": math.nan}, {"negatives": "hard"}]
)
def test_refuses_options_out_of_range(options):
    with pytest.raises(ConfigError, match=f"outcome.{next(iter(options))}"):
        OutcomeReward(**options)
