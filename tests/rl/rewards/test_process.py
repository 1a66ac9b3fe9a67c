"""The process reward, its discriminator's questions, and what happens when that fails."""

import logging
import random
import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
from reward_helpers import FakeJudge, step_of, unit

from embedrl.errors import ConfigError, NonFiniteError, RewardError
from embedrl.rl.rewards.comparison import compare_roles, margins
from embedrl.rl.rewards.judge import Verdict
from embedrl.rl.rewards.process import ProcessReward
from embedrl.types import Pair, Role, Side

NOTE = re.compile(r"^\[(\d+)\] .* (\d) (query|target) (\d)$", re.MULTILINE)


def notes(question):
    """Pair, role and number of each candidate, in the order shown."""
    found = NOTE.findall(question.prompt)
    assert [int(number) for number, *_ in found] == list(range(1, question.choices + 1))
    return [(int(pair), role, int(index)) for _, pair, role, index in found]


def pair_of(question):
    return int(question.id.split("/")[0])


def oracle(question):
    """The first candidate of the right pair."""
    return [pair for pair, *_ in notes(question)].index(pair_of(question))


def wrong(question):
    return next(i for i, (pair, *_) in enumerate(notes(question)) if pair != pair_of(question))


def asked(step, **options):
    judge = FakeJudge()
    ProcessReward(judge, **options)(step)
    return {question.id: question for question in judge.questions}


@pytest.mark.parametrize(("answer", "expected"), [(oracle, 1.0), (wrong, 0.0)])
def test_one_if_the_right_pair_is_picked_else_zero(answer, expected):
    step = step_of(range(6), range(6), 3)
    result = ProcessReward(FakeJudge(answer))(step)
    assert result.values == {r.id: expected for r in step.rollouts}
    assert result.metrics == {"hit": expected, "chance": pytest.approx(3 / 7)}


def test_the_margin_form_pays_the_margin_of_the_outcome():
    step = step_of(range(6), range(6), 3)
    values = ProcessReward(FakeJudge(oracle), form="margin")(step).values
    for role in Role:
        comparison = compare_roles(step, role, True)
        expected = margins(comparison, 0.5, "softmax").tolist()
        assert [values[r.id] for r in comparison.anchors] == pytest.approx(expected)
    assert set(ProcessReward(FakeJudge(wrong), form="margin")(step).values.values()) == {0.0}


@pytest.mark.parametrize("hard_negatives", [1, 4, 9])
def test_candidates_are_the_partner_and_the_best_rollout_of_the_nearest_pairs(hard_negatives):
    step = step_of(range(7), range(7), 3)
    questions = asked(step, hard_negatives=hard_negatives)
    assert questions.keys() == {rollout.id for rollout in step.rollouts}
    for name, question in questions.items():
        pair, role = pair_of(question), name.split("/")[1]
        other = "target" if role == "query" else "query"
        similarity = {c.id: step.vectors[name] @ step.vectors[c.id] for c in step.rollouts if c.role == other}
        best = {i: max(range(3), key=lambda g: similarity[f"{i}/{other}/{g}"]) for i in range(7) if i != pair}
        nearest = sorted(best, key=lambda i: -similarity[f"{i}/{other}/{best[i]}"])[:hard_negatives]
        expected = {(pair, other, g) for g in range(3)} | {(i, other, best[i]) for i in nearest}
        assert set(notes(question)) == expected
        assert question.choices == len(expected) == 3 + min(hard_negatives, 6)


def test_the_prompt_holds_the_text_and_notes_of_the_side_and_only_notes_of_the_candidates():
    step = step_of("ab", "xy", 2)
    questions = asked(step)
    prompt = questions["0/query/1"].prompt
    assert "query a" in prompt
    assert step.rollouts[1].text in prompt
    assert not any(text in prompt for text in ("target x", "target y", "query b"))
    prompt = questions["1/target/0"].prompt
    assert "target y" in prompt
    assert not any(text in prompt for text in ("target x", "query a", "query b"))


def test_the_order_is_shuffled_by_the_seed_and_by_nothing_else():
    step = step_of(range(6), range(6), 4)
    plain = asked(step)
    rollouts = list(step.rollouts)
    random.Random(3).shuffle(rollouts)
    assert asked(replace(step, rollouts=rollouts)) == plain
    mine = frozenset(list(plain)[10:20])
    assert asked(replace(step, mine=mine)) == {name: plain[name] for name in mine}
    other = asked(replace(step, seed=1))
    assert all(set(notes(other[name])) == set(notes(plain[name])) for name in plain)
    assert sum(other[name] != plain[name] for name in plain) > 0.9 * len(plain)


def test_every_place_holds_the_partner_equally_often():
    places = Counter()
    for seed in range(40):
        step = replace(step_of(range(5), range(5), 2), seed=seed)
        for question in asked(step).values():
            places.update(i for i, (pair, *_) in enumerate(notes(question)) if pair == pair_of(question))
    expected = 40 * 20 * 2 / 6
    assert sorted(places) == list(range(6))
    assert all(abs(count - expected) < 5 * expected**0.5 for count in places.values())


def test_rewards_follow_their_rollouts():
    def parity(question):
        return oracle(question) if int(question.id[-1]) % 2 else wrong(question)

    step = step_of(range(4), range(4), 4)
    rollouts = list(step.rollouts)
    random.Random(1).shuffle(rollouts)
    values = ProcessReward(FakeJudge(parity))(replace(step, rollouts=rollouts)).values
    assert values == {r.id: float(r.index % 2) for r in step.rollouts}


def test_duplicates_are_no_hard_negatives():
    step = step_of("abc", "xxy", 2)
    assert {pair for pair, *_ in notes(asked(step)["0/query/0"])} == {0, 2}
    assert {pair for pair, *_ in notes(asked(step, mask_duplicates=False)["0/query/0"])} == {0, 1, 2}


def test_one_pair_is_no_verdict_and_no_question():
    step, judge = step_of("a", "x", 3), FakeJudge()
    result = ProcessReward(judge)(step)
    assert result.values == dict.fromkeys(r.id for r in step.rollouts)
    assert result.metrics == {}
    assert judge.questions == []


def test_hostile_text_reaches_the_judge_as_clean_text():
    step = step_of("ab", "xy", 1)
    rollouts = [replace(r, text="\ud800 \0 {0} %s") for r in step.rollouts]
    pairs = [Pair(Side("\udfff"), Side("b"), "demo", str(i)) for i in range(2)]
    questions = asked(replace(step, rollouts=rollouts, pairs=pairs), mask_duplicates=False)
    assert len(questions) == len(rollouts) == 4
    for question in questions.values():
        question.prompt.encode()
        assert "\0" not in question.prompt


def failing(share):
    """Fails on this share of the questions, evenly."""
    count = iter(range(10**6))
    return lambda question: "timeout" if next(count) % 10 < share * 10 else oracle(question)


def test_failures_are_no_verdict_counted_and_logged(caplog):
    step = step_of(range(5), range(5), 2)
    answers = iter(["timeout", "http_500", "timeout", "unreadable"] + [""] * 16)
    judge = FakeJudge(lambda question: next(answers) or oracle(question))
    with caplog.at_level(logging.WARNING):
        result = ProcessReward(judge)(step)
    assert list(result.values.values()) == [None] * 4 + [1.0] * 16
    assert {k: v for k, v in result.metrics.items() if k.startswith("failed")} == {
        "failed/http_500": 1 / 20,
        "failed/timeout": 2 / 20,
        "failed/unreadable": 1 / 20,
    }
    (record,) = caplog.records
    assert record.getMessage() == (
        "the fake judge: no verdict on 4 of 20 questions (timeout 2, http_500 1, unreadable 1)"
    )


def test_too_many_failures_in_a_row_stop_the_run():
    step = step_of(range(5), range(5), 2)
    reward = ProcessReward(FakeJudge(failing(0.6)), max_failures=0.5, patience=3)
    reward(step)
    reward(step)
    with pytest.raises(RewardError, match=r"the fake judge .* more than 50% .* 3 steps .* timeout 12\)") as error:
        reward(step)
    assert "\n" not in str(error.value)


def test_a_good_step_begins_the_count_anew():
    step = step_of(range(5), range(5), 2)
    judge = FakeJudge()
    reward = ProcessReward(judge, patience=2)
    for _ in range(3):
        for judge.answer in (failing(1.0), failing(0.5)):  # half is not more than half
            reward(step)


@pytest.mark.parametrize(
    ("verdicts", "message"),
    [([], "0 verdicts on 8 questions"), ([Verdict(0)] * 7 + [Verdict(6)], "chose candidate 6 of 3")],
)
def test_refuses_a_judge_that_breaks_its_contract(verdicts, message):
    judge = FakeJudge()
    judge.choose = lambda questions: verdicts
    with pytest.raises(RewardError, match=message):
        ProcessReward(judge)(step_of("ab", "xy", 2))


def test_refuses_vectors_that_are_not_finite():
    step = step_of("ab", "ab", 2, lambda rows, seed: unit(rows) * torch.nan)
    with pytest.raises(NonFiniteError):
        ProcessReward(FakeJudge())(step)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("hard_negatives", 0),
        ("form", "soft"),
        ("candidates", "step"),
        ("positives", "two"),
        ("style", "short"),
        ("temperature", 0.0),
        ("max_failures", 1.0),
        ("max_failures", -0.1),
        ("patience", 0),
    ],
)
def test_refuses_options_out_of_range(option, value):
    with pytest.raises(ConfigError, match=f"process.{option}"):
        ProcessReward(FakeJudge(), **{option: value})


class SureJudge(FakeJudge):
    """Gives the candidates of the right pair the shares `given`, by the number of the rollout that it reads."""

    def choose(self, questions):
        verdicts = []
        for question in questions:
            right = [pair == pair_of(question) for pair, *_ in notes(question)]
            share = int(question.id[-1]) / 10
            rest = (1 - share) / (len(right) - sum(right))
            values = tuple(share / sum(right) if is_right else rest for is_right in right)
            verdicts.append(Verdict(max(range(len(values)), key=values.__getitem__), probabilities=values))
        return verdicts


@pytest.mark.parametrize("positives", ["all", "one"])
@pytest.mark.parametrize("candidates", ["rollout", "group"])
def test_the_probability_form_pays_the_probability_of_the_right_numbers(candidates, positives):
    step = step_of(range(4), range(4), 5)
    reward = ProcessReward(SureJudge(), form="probability", candidates=candidates, positives=positives)
    result = reward(step)
    assert result.values == pytest.approx({r.id: r.index / 10 for r in step.rollouts})
    assert result.metrics["chance"] == pytest.approx(
        (5 if positives == "all" else 1) / (8 if positives == "all" else 4)
    )


def test_the_probability_form_needs_probabilities():
    with pytest.raises(RewardError, match=r"the fake judge gives no probabilities; .*take form: hit"):
        ProcessReward(FakeJudge(), form="probability")(step_of("ab", "xy", 2))


def test_one_question_a_group_rewards_equal_rollouts_equally():
    """A judge that answers a place pays a whole group alike, so nothing is learned from it; the paper's form pays."""
    step = step_of(range(6), range(6), 4)
    for form, spread in (("group", False), ("rollout", True)):
        values = ProcessReward(FakeJudge(lambda question: 1), candidates=form, positives="one")(step).values
        groups = {
            r.group: {values[other.id] for other in step.rollouts if other.group == r.group} for r in step.rollouts
        }
        assert any(len(group) > 1 for group in groups.values()) == spread


def test_without_a_negative_that_differs_there_is_no_verdict():
    step = step_of("abc", "xyz", 2)
    judge = FakeJudge()
    result = ProcessReward(judge, drop_twins=True)(step)  # all rollouts give one answer
    assert result.values == dict.fromkeys(r.id for r in step.rollouts)
    assert judge.questions == []
