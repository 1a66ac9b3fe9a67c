"""Rollouts as lessons for a step model."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedrl.data.mix import MixRow
from embedrl.data.render import RenderOptions
from embedrl.data.step_lessons import StepLessons, even, sections_of, step_chat
from embedrl.data.world import WorldSource
from embedrl.errors import ConfigError, DataError
from embedrl.types import Pair, Side

WHOLE = "<thinking>a</thinking><rethink>b</rethink><answer>c</answer>"


@pytest.mark.parametrize(
    ("tcot", "lengths"),
    [
        (WHOLE, [22, 42, 60]),
        (WHOLE[:42], [22, 42]),
        (WHOLE[:50], [22, 42, 50]),
        (WHOLE[:22], [22]),
        (WHOLE[:10], [10]),
        ("", [0]),
        ("no tags", [7]),
        ("<rethink>b</rethink>", [20]),
        ("<rethink>b</rethink> more", [20, 25]),
    ],
)
def test_a_tcot_after_each_of_its_sections(tcot, lengths):
    assert sections_of(tcot) == [tcot[:length] for length in lengths]


class Rows:
    """Queries of words alone."""

    modality = "text"

    def __init__(self, name, size):
        self.name, self.size = name, size

    def __len__(self):
        return self.size

    def __getitem__(self, row):
        return Pair(Side(f"query {row}"), Side(f"target {row}"), self.name, f"p{row}")


def write(file, *rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def rolled(name, row, tcots, found):
    return {"key": f"{name}/p{row}", "dataset": name, "id": f"p{row}", "row": row, "tcots": tcots, "successes": found}


def text_of(lesson):
    return "".join(part.get("text", "<picture>") for part in lesson.chat[0]["content"])


def test_every_beginning_is_learned_with_the_outcome_of_its_rollout(tmp_path):
    other = WHOLE.replace("c", "d")
    file = write(tmp_path / "r.jsonl", rolled("a", 2, [WHOLE, other], [1, 0]), rolled("b", 0, ["?"], [0]))
    mix = [MixRow(Rows("a", 3)), MixRow(Rows("b", 1))]
    lessons = StepLessons(mix, file, style="brief", render=RenderOptions(cues="off"), balanced=False)
    assert [lesson.reply for lesson in lessons] == ["yes"] * 3 + ["no"] * 3 + ["no"]
    assert [lesson.kind for lesson in lessons] == ["a_step"] * 6 + ["b_step"]
    assert all(lesson.gold == {"answer": lesson.reply} for lesson in lessons)
    unfinished, finished, broken = (text_of(lessons[i]) for i in (0, 5, 6))
    assert unfinished == "query :\nquery 2\n<thinking>a</thinking>\n<rethink></rethink><answer></answer>\nmatch ?"
    assert finished == "query :\nquery 2\n<thinking>a</thinking>\n<rethink>b</rethink><answer>d</answer>\nmatch ?"
    assert broken.startswith("query :\nquery 0\n")
    assert "?" in broken.removesuffix("match ?")
    shared = [text_of(lessons[i]) for i in (0, 3)]
    assert shared[0] == shared[1], "what both begin with has both outcomes"


@given(st.lists(st.sampled_from([0, 1]), max_size=12))
def test_the_query_alone_says_nothing(found):
    """As many yes as no, and the most that there can be."""
    places = even(found)
    kinds = [found[i] for i in places]
    assert kinds.count(0) == kinds.count(1) == min(found.count(0), found.count(1))
    assert places == sorted(set(places))


def test_queries_whose_tcots_all_do_the_same_are_left_out(tmp_path):
    rows = [rolled("a", row, ["x", "y", "z"], found) for row, found in enumerate([[1, 1, 1], [0, 1, 1], [0, 0, 0]])]
    lessons = StepLessons([MixRow(Rows("a", 3))], write(tmp_path / "r.jsonl", *rows), "brief")
    assert [(lesson.reply, "query 1" in text_of(lesson)) for lesson in lessons] == [("no", True), ("yes", True)]


def test_a_part_of_every_data_set(tmp_path):
    rows = [rolled(name, row, ["x"], [row % 2]) for name in "ab" for row in range(10)]
    file, mix = write(tmp_path / "r.jsonl", *rows), [MixRow(Rows("a", 10)), MixRow(Rows("b", 10))]
    first, last = (StepLessons(mix, file, "brief", balanced=False, part=part) for part in ((0, 0.8), (0.8, 1)))
    assert (len(first), len(last)) == (16, 4)
    assert [text_of(lesson).split("query ")[-1][0] for lesson in last] == ["8", "9", "8", "9"]


def test_close_ups_are_shown_once_they_are_named():
    pair = WorldSource("vqa", teacher="perfect")[0]
    so_far, _, whole = sections_of(pair.query.tcot)
    pictures = [
        sum(part["type"] == "image" for part in step_chat(pair.query.with_tcot(text), RenderOptions())[0]["content"])
        for text in ("", so_far, whole)
    ]
    assert pictures[0] == 1
    assert pictures[1] == pictures[2] > 1


@pytest.mark.parametrize(
    ("rows", "options", "told"),
    [
        ([], {}, "holds no pair"),
        ([rolled("c", 0, ["x"], [1])], {}, "holds c, which is not in the mix \\(a\\)"),
        ([rolled("a", 0, ["x"], [1, 0])], {}, "not as many `successes` as `tcots`"),
        ([{"key": "a/p0"}], {}, "holds key, not key, dataset"),
        ([rolled("a", 0, ["x"], [1])], {"part": (0.5, 0.5)}, r"part is \[0.5, 0.5\]"),
        ([rolled("a", 0, ["x"], [1])], {"part": (0, 1.5)}, "give two shares that rise"),
        ([rolled("a", 0, ["x"], [1])], {"part": (0, 0.1)}, "widen it"),
        ([rolled("a", 0, ["x"], [1])], {}, "with T-CoTs that succeed and that fail"),
    ],
)
def test_wrong_input(tmp_path, rows, options, told):
    with pytest.raises((ConfigError, DataError), match=told):
        StepLessons([MixRow(Rows("a", 2))], write(tmp_path / "r.jsonl", *rows), **options)


def test_files_of_other_data(tmp_path):
    with pytest.raises(DataError, match=r"no\.jsonl"):
        StepLessons([MixRow(Rows("a", 2))], tmp_path / "no.jsonl")
    file = write(tmp_path / "r.jsonl", rolled("a", 0, ["x"], [1]) | {"id": "p9"})
    with pytest.raises(DataError, match=r"row 0 is p0 now: .*r\.jsonl was drawn of other data"):
        StepLessons([MixRow(Rows("a", 2))], file, balanced=False)[0]
