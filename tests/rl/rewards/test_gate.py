"""A learned gate's reward, by cases that are computed by hand and by plain loops."""

from dataclasses import replace

import pytest
import torch
from reward_helpers import step_of, unit

from embedrl.errors import ConfigError
from embedrl.rl.rewards.gate import GateReward
from embedrl.rl.types import Rollout, RolloutStep
from embedrl.types import Pair, Role, Side


def angle(cosine):
    return torch.tensor([cosine, (1 - cosine**2) ** 0.5], dtype=torch.float64)


def by_hand(price, **options):
    """One query with three rollouts, whose partner is (1, 0) and whose negative is (0, 1); raw, its cosine is 0.6."""
    pairs = [Pair(Side(f"query {i}"), Side(f"target {i}"), "demo", str(i)) for i in range(2)]
    written = [("<gen_emb>", 1, False, 0.6), ("a b c<gen_emb>", 4, False, 0.8), ("a b c d", 4, True, 0.28)]
    rollouts, vectors = [], {}
    for index, (text, tokens, truncated, cosine) in enumerate(written):
        rollouts.append(Rollout(0, Role.QUERY, index, (7,) * tokens, (), text, truncated))
        vectors[rollouts[-1].id] = angle(cosine)
    for pair, vector in enumerate(([1.0, 0.0], [0.0, 1.0])):
        rollouts.append(Rollout(pair, Role.TARGET, 0, (7,), (), "<gen_emb>"))
        vectors[rollouts[-1].id] = torch.tensor(vector, dtype=torch.float64)
    raw = {r.id: angle(0.6) if r.role is Role.QUERY else vectors[r.id] for r in rollouts}
    step = RolloutStep(pairs, rollouts, vectors, {}, frozenset(r.id for r in rollouts[:3]), variants={"none": raw})
    return GateReward(price, **options)(step)


@pytest.mark.parametrize(
    ("price", "of", "expected"),
    [
        (0.0, "similarity", [0.0, 0.8 - 0.6, 0.28 - 0.6]),
        (0.05, "similarity", [0.0, 0.2 - 3 * 0.05, -0.32 - 4 * 0.05]),  # the token that ends a reply costs nothing
        (0.1, "similarity", [0.0, 0.2 - 0.3, -0.32 - 0.4]),  # now reasoning does not pay
        (0.05, "margin", [0.0, (0.8 - 0.6) - (0.6 - 0.8) - 0.15, (0.28 - 0.96) - (0.6 - 0.8) - 0.2]),
    ],
)
def test_gain_less_the_price_of_its_tokens(price, of, expected):
    result = by_hand(price, of=of)
    assert [result.values[f"0/query/{i}"] for i in range(3)] == pytest.approx(expected, abs=1e-12)
    assert result.metrics["thinking"] == pytest.approx(2 / 3)
    gains = [(value + price * tokens) for value, tokens in zip(expected[1:], (3, 4), strict=True)]
    assert result.metrics["gain"] == pytest.approx(sum(gains) / 2)
    assert result.metrics["helped"] == 0.5


def test_equals_a_double_loop():
    step = step_of("abc", "xyz", 3)
    rollouts = [replace(r, tokens=(0,) * (2 + i % 5)) for i, r in enumerate(step.rollouts)]
    raw = dict(zip((r.id for r in rollouts), unit(len(rollouts), seed=5), strict=True))
    step = replace(step, rollouts=rollouts, variants={"none": raw})
    values = GateReward(0.01)(step).values
    for rollout in rollouts:
        partners = [step.vectors[o.id] for o in rollouts if o.role is not rollout.role and o.pair == rollout.pair]
        near = [
            sum(float(v @ p) for p in partners) / len(partners) for v in (step.vectors[rollout.id], raw[rollout.id])
        ]
        expected = near[0] - near[1] - 0.01 * (len(rollout.tokens) - 1)
        assert values[rollout.id] == pytest.approx(expected, abs=1e-9)


def test_an_empty_gate_earns_nothing_and_says_so():
    """Nobody reasons: every reward is 0, and there is no gain to speak of."""
    step = step_of("ab", "xy", 2)
    rollouts = [replace(r, text="<gen_emb>", tokens=(0,)) for r in step.rollouts]
    result = GateReward(0.1)(replace(step, rollouts=rollouts, variants={"none": step.vectors}))
    assert set(result.values.values()) == {0.0}
    assert result.metrics == {"thinking": 0.0}


def test_nothing_to_compare_with_is_no_verdict():
    step = replace(step_of("a", "x", 2), variants={"none": {}})
    assert set(GateReward()(step).values.values()) == {None}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"price": -0.1}, r"gate\.price"), ({"of": "rank"}, r"gate\.of"), ({"temperature": 0}, r"gate\.temperature")],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        GateReward(**options)
