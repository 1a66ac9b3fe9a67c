"""The check of a judge, against plain counting over what judges of known habits answer."""

import math

import pytest
from reward_helpers import FakeJudge

from embedrl.errors import ConfigError
from embedrl.rl.judge_check import as_json, check_judge, in_several_orders, rotate, shifts
from embedrl.rl.rewards.judge import Question, Verdict

WORDS = "abcde"


def questions(count=20, rotations=3, kind="demo"):
    """Question i asks for the letter at place i of the list that is not rotated."""

    def ask(right, order):
        return Question(f"asks for {right}", " ".join(order), len(order), candidates=order)

    return [
        in_several_orders(kind, WORDS, frozenset([i % 5]), rotations, lambda order, i=i: ask(WORDS[i % 5], order))
        for i in range(count)
    ]


def reader(question):
    return question.candidates.index(question.id[-1])


def second(question):
    return 1


def wrong_reader(question):
    """Always names the letter behind the right one."""
    return question.candidates.index(WORDS[(WORDS.index(question.id[-1]) + 1) % 5])


@pytest.mark.parametrize(
    ("habit", "right", "follows", "keeps", "favourite"),
    [
        (reader, 1.0, 1.0, 0.0, 0.2),
        (second, 0.2, 0.0, 1.0, 1.0),
        (wrong_reader, 0.0, 1.0, 0.0, 0.2),
    ],
)
def test_judges_of_known_habits(habit, right, follows, keeps, favourite):
    scores = check_judge(FakeJudge(habit), questions(rotations=5))[-1]
    assert (scores.right, scores.follows, scores.keeps_place, scores.favourite) == pytest.approx(
        (right, follows, keeps, favourite)
    )
    assert (scores.kind, scores.questions, scores.chance, scores.no_verdict) == ("all", 20, pytest.approx(0.2), 0.0)


def test_answers_are_counted_as_a_double_loop_counts_them():
    asked = questions(40, 4)
    judge = FakeJudge(lambda question: sum(map(ord, question.prompt + question.id[-1])) * 7 % 11 % 5)
    scores = check_judge(judge, asked)[-1]
    right = follows = keeps = pairs = total = 0
    for one in asked:
        places = [judge.answer(asking) for asking in one.askings]
        letters = [asking.candidates[place] for asking, place in zip(one.askings, places, strict=True)]
        right += sum(letter == one.askings[0].id[-1] for letter in letters)
        total += len(letters)
        for i in range(len(letters)):
            for j in range(i):
                pairs += 1
                follows += letters[i] == letters[j]
                keeps += places[i] == places[j]
    assert (scores.right, scores.follows, scores.keeps_place) == pytest.approx(
        (right / total, follows / pairs, keeps / pairs)
    )


def test_kinds_are_counted_apart_and_in_order():
    judge = FakeJudge(reader)
    rows = check_judge(judge, [*questions(4, kind="b"), *questions(6, kind="a")])
    assert [(row.kind, row.questions) for row in rows] == [("b", 4), ("a", 6), ("all", 10)]


def test_what_has_no_verdict_counts_for_nothing_else():
    judge = FakeJudge(lambda question: "timeout" if question.prompt.startswith("a") else reader(question))
    scores = check_judge(judge, questions(rotations=2))[-1]
    assert scores.no_verdict == 0.5
    assert scores.right == 1.0
    assert math.isnan(scores.follows)
    assert as_json([scores])["all"]["follows"] is None
    silent = check_judge(FakeJudge(lambda question: "timeout"), questions())[-1]
    assert silent.no_verdict == 1.0
    assert math.isnan(silent.right)


def test_probabilities_follow_the_rotation():
    class Sure(FakeJudge):
        def choose(self, asked):
            return [
                Verdict(0, probabilities=tuple(0.6 if letter == q.id[-1] else 0.1 for letter in q.candidates))
                for q in asked
            ]

    assert check_judge(Sure(), questions())[-1].right_probability == pytest.approx(0.6)
    assert check_judge(FakeJudge(), questions())[-1].right_probability is None


@pytest.mark.parametrize(("choices", "rotations"), [(2, 2), (5, 5), (5, 3), (3, 8), (12, 4)])
def test_orders_differ_and_the_first_is_the_list(choices, rotations):
    places = shifts(choices, rotations)
    assert places[0] == 0
    assert len(places) == len(set(places)) == min(choices, rotations)
    letters = "abcdefghijkl"[:choices]
    for place in places:
        assert [rotate(letters, place)[(i + place) % choices] for i in range(choices)] == list(letters)


def test_refuses_what_cannot_be_compared():
    with pytest.raises(ConfigError, match="two orders"):
        check_judge(FakeJudge(), [])
    with pytest.raises(ConfigError, match="two orders"):
        check_judge(FakeJudge(), questions(rotations=1))
