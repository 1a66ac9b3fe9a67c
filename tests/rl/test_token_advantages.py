"""Advantages of tokens: what a section earned counts for its tokens alone."""

from dataclasses import replace
from statistics import mean, stdev

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedrl.errors import ConfigError
from embedrl.rl.grpo_loss import GRPOLoss
from embedrl.rl.rewards.combine import StepRewards
from embedrl.rl.token_advantages import AdvantageOptions, section_ends, token_advantages
from embedrl.rl.types import Rollout
from embedrl.types import Role

TEXTS = [
    "<thinking>ab</thinking><rethink>c</rethink><answer>d</answer>",
    "<thinking>longer here</thinking><rethink>c</rethink><answer>ef</answer>!",
    "<thinking>never closed",
]


def decode(tokens):
    return "".join(map(chr, tokens))


def rollouts(truncated=()):
    return [
        Rollout(0, Role.QUERY, i, tuple(map(ord, text)), (0.0,) * len(text), text, i in truncated)
        for i, text in enumerate(TEXTS)
    ]


def rewards(totals, gains=None, weight=0.5):
    ids = [r.id for r in rollouts()]
    sections = [] if gains is None else [(weight, dict(zip(ids, gains, strict=True)))]
    return StepRewards(dict(zip(ids, totals, strict=True)), {}, {}, sections)


def normal(column):
    return [(value - mean(column)) / (stdev(column) + 1e-4) for value in column]


GAINS = [(1.0, 0.0, 0.3), (0.2, 0.0, 0.1), (0.6, 0.0, 0.0)]


def test_sections_get_their_own_beside_the_whole():
    rows = rollouts()
    made, figures = token_advantages(rewards([1.0, 0.0, 0.5], GAINS), rows, decode)
    tokens = made.of(rows, (3, 90), torch.device("cpu"))
    whole, credit = normal([1.0, 0.0, 0.5]), [normal([row[k] for row in GAINS]) for k in (0, 2)]
    for i, text in enumerate(TEXTS):
        for place in range(len(text)):
            before = text[:place]
            extra = 0.0
            if "</thinking>" not in before:
                extra = credit[0][i]
            elif "</rethink>" in before:
                extra = credit[1][i]
            assert float(tokens[i, place]) == pytest.approx(whole[i] + 0.5 * extra, abs=1e-6)
    assert figures["advantage/zero_variance"] == 0.0


def test_without_sections_they_are_those_of_rollouts():
    rows = rollouts()
    made, _ = token_advantages(rewards([1.0, 0.0, 0.5]), rows, decode)
    values = made.of(rows[1:], (2, 90), torch.device("cpu"))
    assert values.tolist() == pytest.approx(normal([1.0, 0.0, 0.5])[1:])
    assert made.of([], (2, 90), torch.device("cpu")).tolist() == [0.0, 0.0]


def test_a_group_of_equal_totals_stays_for_its_sections():
    rows = rollouts()
    made, figures = token_advantages(rewards([0.5] * 3, GAINS), rows, decode, filter_groups=True)
    assert set(made.values.values()) == {0.0}
    assert set(made.sections) == {r.id for r in rows}
    assert figures["advantage/zero_variance"] == 1.0
    nothing, _ = token_advantages(rewards([0.5] * 3, [(0.1, 0.1, 0.1)] * 3), rows, decode, filter_groups=True)
    assert not nothing.values


def test_no_verdict_and_truncated_rollouts_are_left_out():
    rows = rollouts(truncated=(2,))
    made, figures = token_advantages(rewards([1.0, None, 0.5], GAINS), rows, decode)
    assert set(made.values) == {rows[0].id, rows[2].id}
    assert figures["advantage/no_verdict"] == pytest.approx(1 / 3)
    made, _ = token_advantages(
        rewards([1.0, 0.0, 0.5], GAINS), rows, decode, options=AdvantageOptions(mask_truncated=True)
    )
    assert set(made.values) == set(made.sections) == set(made.ends) == {rows[0].id, rows[1].id}
    assert list(made.values.values()) == pytest.approx(normal([1.0, 0.0, 0.5])[:2])  # it counts in the mean
    made, _ = token_advantages(rewards([1.0, None, 0.5], [GAINS[0], None, GAINS[2]]), rows, decode)
    assert set(made.sections) == {rows[0].id, rows[2].id}


def test_own_rollouts_that_pass_the_gates_count_more():
    rows = rollouts()
    given = rewards([0.5] * 3)
    ids = list(given.totals)
    parts = {
        "format": dict(zip(ids, [1.0, 1.0, 0.0], strict=True)),
        "outcome": dict(zip(ids, [0.4, None, 0.9], strict=True)),
    }
    options = AdvantageOptions(sft_weight=0.1, sft_gates={"format": 1, "outcome": 0.3})
    made, figures = token_advantages(replace(given, parts=parts), rows, decode, filter_groups=True, options=options)
    assert made.values == {ids[0]: 0.1}
    assert figures["advantage/gated"] == pytest.approx(1 / 3)
    differ = replace(rewards([1.0, 0.0, 0.5]), parts=parts)
    plain, more = (token_advantages(differ, rows, decode, options=o)[0] for o in (AdvantageOptions(), options))
    assert [more.values[name] - plain.values[name] for name in ids] == pytest.approx([0.1, 0.0, 0.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (AdvantageOptions(sft_weight=0.1, sft_gates={"fromat": 1}), "'fromat', which is no reward"),
        (AdvantageOptions(sft_weight=0.1), "sft_weight is 0.1, sft_gates {}"),
        (AdvantageOptions(sft_gates={"format": 1}), "sft_weight is 0.0"),
        (AdvantageOptions(sft_weight=-1, sft_gates={"format": 1}), "sft_weight is -1"),
    ],
)
def test_gates_that_make_no_sense(options, message):
    with pytest.raises(ConfigError, match=message):
        options.check(["format", "outcome"])


def test_the_gradient_of_the_gate_is_that_of_cross_entropy():
    logprobs = -torch.rand(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    made = []
    for loss in (
        lambda x: GRPOLoss(kl_coefficient=0)(x, x.detach(), torch.tensor([0.1, 0.0]), mask)[0],
        lambda x: -0.1 * x[0].mean() / 2,
    ):
        own = logprobs.clone().requires_grad_()
        made.append(torch.autograd.grad(loss(own), own)[0])
    torch.testing.assert_close(*made)


def test_unscaled_advantages_are_differences_from_the_mean():
    made, _ = token_advantages(rewards([1.0, 0.0, 0.5]), rollouts(), decode, options=AdvantageOptions(scale="none"))
    assert list(made.values.values()) == pytest.approx([0.5, -0.5, 0.0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["<thinking>", "</thinking>", "<rethink>", "</rethink>", "</answer>", "x", " "])))
def test_ends_are_in_order_and_hold_their_tags(words):
    ends = section_ends(range(len(words)), lambda tokens: "".join(words[i] for i in tokens))
    assert list(ends) == sorted(ends)
    assert ends[-1] == len(words)
    before = 0
    for end, tag in zip(ends[:-1], ("</thinking>", "</rethink>"), strict=True):
        first = next((i + 1 for i, word in enumerate(words) if word == tag), len(words))
        assert end == max(before, first)
        before = end
