import re
from collections import Counter

import pytest

from embedrl.data.match_lessons import MatchLessons
from embedrl.data.world import WorldSource
from embedrl.errors import ConfigError, DataError, TCoTError
from embedrl.tcot.matching import match_chat, match_prompt
from embedrl.tcot.parser import build
from embedrl.types import Modality, Pair, Role, Side


def tcot(answer, teacher=""):
    return build(Modality.TEXT, f"{teacher} looks .", "this .", answer, keywords=["it"]).render()


class Rows:
    """Pair i asks for `answers[i]`."""

    modality = Modality.TEXT

    def __init__(self, *answers, teacher="one", name="rows"):
        self.answers, self.teacher, self.name = answers, teacher, name

    def __len__(self):
        return len(self.answers)

    def __getitem__(self, index):
        query = Side(f"query {index}", tcot=tcot(f"wish {index}", self.teacher))
        target = Side(f"target {index}", tcot=tcot(self.answers[index], self.teacher))
        return Pair(query, target, self.name, str(index))


def test_the_reply_is_the_place_of_the_partner_and_the_question_is_the_rewards():
    rows = Rows(*(f"red {i}" for i in range(9)))
    lessons = MatchLessons([rows], 60, (2, 5), 6, "brief")
    for i in range(60):
        match, lesson = lessons.match(i), lessons[i]
        pair = rows[int(match.id)]
        anchor, partner = (pair.query, pair.target) if match.role is Role.QUERY else (pair.target, pair.query)
        assert match.anchor.text == anchor.text
        assert match.candidates.index(partner.tcot) == match.right == int(lesson.reply) - 1
        assert 2 <= len(match.candidates) <= 5
        assert len(set(match.candidates)) == len(match.candidates)
        assert lesson.chat == match_chat(match_prompt(match.role, anchor.text, anchor.tcot, match.candidates, "brief"))
        assert lesson.kind == "rows_match"
    assert {lessons.match(i).role for i in range(60)} == set(Role)


def test_the_right_one_stands_everywhere_equally_often():
    lessons = MatchLessons([Rows(*map(str, range(12)))], 2000, (4, 4), 5)
    places = Counter(lessons.match(i).right for i in range(2000))
    assert sorted(places) == [0, 1, 2, 3]
    assert all(abs(count - 500) < 5 * 500**0.5 for count in places.values())


def test_a_pair_of_the_same_answer_is_no_negative():
    lessons = MatchLessons([Rows("red star", "Red  star", "blue star", "red circle")], 80, (2, 3), 3)
    for i in range(80):
        match = lessons.match(i)
        if match.role is Role.QUERY and match.id in "01":
            assert sum("star</answer>" in c.lower() and "red" in c.lower() for c in match.candidates) == 1


def test_the_negatives_are_those_of_the_pool_that_read_most_like_the_right_one():
    answers = ["red star top", "red star", "red", "blue", "green", "black"]
    lessons = MatchLessons([Rows(*answers)], 200, (3, 3), 5)
    taken = Counter()
    for i in range(200):
        match = lessons.match(i)
        if match.role is Role.QUERY and match.id == "0":
            taken.update(re.search("<answer>(.*)</answer>", c)[1] for c in match.candidates)
    assert taken["red star"] > taken["blue"]
    assert taken["red"] > taken["green"]


def test_sources_of_one_name_are_one_data_set_by_several_teachers():
    one, two = Rows(*map(str, range(8))), Rows(*map(str, range(8)), teacher="two")
    lessons = MatchLessons([one, two, Rows(*map(str, range(5)), name="other")], 200, (3, 3), 4)
    seen = {
        teacher for i in range(0, 200, 2) for c in lessons.match(i).candidates for teacher in re.findall("one|two", c)
    }
    assert seen == {"one", "two"}
    assert {lessons.match(i).dataset for i in range(200)} == {"rows", "other"}


def test_the_first_lessons_show_answers_alone():
    lessons = MatchLessons([Rows(*map(str, range(8)))], 4, (2, 2), 4, answers_first=2)
    assert ["<answer>" in lessons[i].chat[0]["content"][0]["text"] for i in range(4)] == [False, False, True, True]


def test_a_lesson_is_a_function_of_its_number_and_of_the_seed():
    def every(seed, order):
        lessons = MatchLessons([Rows(*map(str, range(20)))], 30, seed=seed)
        return {i: lessons[i].chat for i in order}

    assert every(0, range(30)) == every(0, reversed(range(30)))
    assert every(0, range(30)) != every(1, range(30))


def test_the_judges_families_of_the_world():
    sources = [WorldSource("vqa", teacher=teacher, size=40) for teacher in ("perfect", "annotator")]
    match = MatchLessons(sources, 2, (4, 4), 6).match(0)
    assert match.dataset == "world/vqa"
    assert len(match.candidates) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": []}, "at least one source"),
        ({"candidates": (1, 3)}, "candidates"),
        ({"candidates": (4, 3)}, "candidates"),
        ({"pool": 3}, "pool"),
        ({"size": 0}, "size"),
        ({"sources": [Rows("a", "b", "c", "d", "e", "f"), Rows("a")]}, "differ in length"),
        ({"sources": [Rows("a", "b")]}, "too few"),
    ],
)
def test_refuses_options_out_of_range(options, message):
    given = {"sources": [Rows(*"abcdefgh")], "size": 4, "candidates": (2, 6)} | options
    with pytest.raises(ConfigError, match=message):
        MatchLessons(**given)


def test_names_the_pair_that_has_no_tcot_or_no_rival():
    class Bare(Rows):
        def __getitem__(self, index):
            return Pair(Side(f"q{index}"), Side("t"), "bare", str(index))

    with pytest.raises(TCoTError, match=r"bare/\d+ \(query\): no T-CoT"):
        MatchLessons([Bare(*"abcdef")], 1)[0]
    with pytest.raises(DataError, match=r"rows/\d+: 0 pairs with other answers"):
        MatchLessons([Rows(*"aaaaaa")], 1)[0]
