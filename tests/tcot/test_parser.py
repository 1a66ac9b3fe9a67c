"""Every malformation seen in the wild; what is built can be read again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedrl.tcot.parser import build, parse
from embedrl.tcot.schema import Cues, TCoT
from embedrl.types import Modality

IMAGE, TEXT, VIDEO = Modality.IMAGE, Modality.TEXT, Modality.VIDEO
CUE = {
    TEXT: '{"text_keywords": ["red star"]}',
    IMAGE: '{"bbox_2d": [[10, 20, 300, 400]]}',
    VIDEO: '{"key_frames": [2, 5]}',
}
CUES = {
    TEXT: Cues(text_keywords=("red star",)),
    IMAGE: Cues(boxes=((10, 20, 300, 400),)),
    VIDEO: Cues(key_frames=(2, 5)),
}
TAIL = "<rethink>keep the star</rethink><answer>a red star</answer>"


def tcot(cue: str = CUE[IMAGE]) -> str:
    return f"<thinking>a star {cue}</thinking>{TAIL}"


VALID = [
    (tcot(CUE[TEXT]), TEXT),
    (tcot(CUE[IMAGE]), IMAGE),
    (tcot(CUE[VIDEO]), VIDEO),
    (f"\n<thinking>\na star\n{CUE[IMAGE]}\n</thinking>\n{TAIL}\n", IMAGE),
    (tcot("in the set {a, b}: " + CUE[IMAGE]), IMAGE),
    (tcot("an open { and a lone } brace " + CUE[IMAGE]), IMAGE),
    (tcot(r'{"text_keywords": ["a } \" { b", "caf\u00e9"]}'), TEXT),
    (tcot("the bbox_2d: " + CUE[IMAGE]), IMAGE),
    (tcot("where 1 < 2 and <b>bold</b> " + CUE[IMAGE]), IMAGE),
    (tcot('{"bbox_2d": [[0, 0, 1000, 1000], [10, 20, 30, 40]]}'), IMAGE),
    (tcot('{"bbox_2d": [10, 20, 300, 400]}'), IMAGE),
]


@pytest.mark.parametrize(("text", "modality"), VALID)
def test_valid(text, modality):
    result = parse(text, modality, num_frames=8)
    assert result.problems == ()
    assert result.ok
    assert (result.tcot.rethink, result.tcot.answer) == ("keep the star", "a red star")


@pytest.mark.parametrize(
    ("cue", "modality", "one_box", "codes"),
    [
        ("[10, 20, 300, 400]", IMAGE, True, ""),
        ("[[10, 20, 300, 400]]", IMAGE, False, ""),
        ("[300, 20, 10, 400]", IMAGE, True, "box_swapped"),
        ("[10.5, 20, 300, 400]", IMAGE, True, "float_coordinate"),
        ("[0, 0, 0, 0]", IMAGE, True, "box_empty"),
        ("[10, 20, 300]", IMAGE, False, "bad_box"),
        ("[1, 2, 3, 4, 5, 6, 7, 8]", IMAGE, False, "bad_box"),
        ("[10, 20, 300, [400]]", IMAGE, False, "bad_box"),
        ("[10, 20, 300, 400]", TEXT, False, "wrong_cue_key"),  # not the cue that is asked for
    ],
)
def test_one_box_in_place_of_a_list_is_named(cue, modality, one_box, codes):
    result = parse(boxes(cue), modality)
    assert (result.one_box, {str(code) for code in result.codes}) == (one_box, set(codes.split()))


def boxes(cue):
    return tcot(f'{{"bbox_2d": {cue}}}')


def frames(cue):
    return tcot(f'{{"key_frames": {cue}}}')


# text, modality, codes that must be found (all of them, no others), the boxes / frames / keywords read
MALFORMED = {
    "no boxes": (boxes("[]"), IMAGE, "empty_cue", []),
    "no frames": (frames("[]"), VIDEO, "empty_cue", []),
    "no keywords": (tcot('{"text_keywords": []}'), TEXT, "empty_cue", []),
    "two bbox_2d keys": (
        tcot('{"bbox_2d": [[1, 2, 3, 4]], "bbox_2d": [[5, 6, 7, 8]]}'),
        IMAGE,
        "duplicate_key",
        [(1, 2, 3, 4), (5, 6, 7, 8)],
    ),
    "x1 > x2": (boxes("[[300, 20, 10, 400]]"), IMAGE, "box_swapped", [(10, 20, 300, 400)]),
    "y1 > y2": (boxes("[[10, 400, 300, 20]]"), IMAGE, "box_swapped", [(10, 20, 300, 400)]),
    "no area": (boxes("[[10, 20, 10, 400]]"), IMAGE, "box_empty", [(10, 20, 10, 400)]),
    "floats": (boxes("[[10.5, 20, 300, 400]]"), IMAGE, "float_coordinate", [(10.5, 20, 300, 400)]),
    "floats in 0..1": (boxes("[[0.25, 0, 0.5, 1]]"), IMAGE, "float_coordinate", [(250, 0, 500, 1000)]),
    "negative zero": (boxes("[[-0.0, 0, 300, 400]]"), IMAGE, "float_coordinate", [(0, 0, 300, 400)]),
    "partly outside": (boxes("[[-10, 20, 300, 1400]]"), IMAGE, "box_outside", [(0, 20, 300, 1000)]),
    "wholly outside": (boxes("[[1100, 20, 1300, 400]]"), IMAGE, "box_outside", []),
    "three numbers": (boxes("[[1, 2, 3], [10, 20, 300, 400]]"), IMAGE, "bad_box", [(10, 20, 300, 400)]),
    "eight numbers in a row": (boxes("[1, 2, 3, 4, 5, 6, 7, 8]"), IMAGE, "bad_box", [(1, 2, 3, 4), (5, 6, 7, 8)]),
    "quoted numbers": (boxes('[["1", "2", "3", "4"]]'), IMAGE, "bad_box", [(1, 2, 3, 4)]),
    "infinite": (boxes("[[1e999, 0, 1, 1]]"), IMAGE, "bad_box", []),
    "not a number": (boxes("[[NaN, Infinity, -Infinity, 1]]"), IMAGE, "bad_box", []),
    "huge integer": (boxes("[[" + "9" * 10_000 + ", 0, 1, 1]]"), IMAGE, "bad_box", []),
    "true is no number": (boxes("[[true, 0, 1, 1]]"), IMAGE, "bad_box", []),
    "null": (boxes("null"), IMAGE, "not_a_list bad_box", []),
    "object for a box": (boxes('[{"x": 1}]'), IMAGE, "bad_box", []),
    "same box twice": (boxes("[[1, 2, 3, 4], [1, 2, 3, 4]]"), IMAGE, "repeated_cue", [(1, 2, 3, 4)]),
    "frame 0": (frames("[0, 3]"), VIDEO, "bad_frame", [3]),
    "frame 9 of 8": (frames("[3, 9]"), VIDEO, "bad_frame", [3]),
    "negative frame": (frames("[-1]"), VIDEO, "bad_frame", []),
    "whole float frame": (frames("[3.0]"), VIDEO, "bad_frame", [3]),
    "half frame": (frames("[3.5]"), VIDEO, "bad_frame", []),
    "quoted frame": (frames('["3"]'), VIDEO, "bad_frame", [3]),
    "one frame, not a list": (frames("3"), VIDEO, "not_a_list", [3]),
    "same frame twice": (frames("[3, 3]"), VIDEO, "repeated_cue", [3]),
    "keyword not a text": (tcot('{"text_keywords": ["a", 3, " "]}'), TEXT, "bad_keyword", ["a"]),
    "escaped lone surrogate": (tcot(r'{"text_keywords": ["a\ud800b"]}'), TEXT, "bad_keyword", ["a?b"]),
    "one keyword, not a list": (tcot('{"text_keywords": "a"}'), TEXT, "not_a_list", ["a"]),
    "wrong key": (tcot(CUE[TEXT]), IMAGE, "wrong_cue_key", []),
    "unknown key": (tcot('{"boxes": [[1, 2, 3, 4]]}'), IMAGE, "wrong_cue_key", []),
    "extra key": (tcot('{"bbox_2d": [[1, 2, 3, 4]], "label": "x"}'), IMAGE, "extra_key", [(1, 2, 3, 4)]),
    "cue inside an object": (tcot('{"cues": {"bbox_2d": [[1, 2, 3, 4]]}}'), IMAGE, "wrong_cue_key", [(1, 2, 3, 4)]),
    "empty object": (tcot("{} "), IMAGE, "wrong_cue_key", []),
    "several objects": (
        tcot('[{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [[5, 6, 7, 8]]}]'),
        IMAGE,
        "several_cues",
        [(1, 2, 3, 4), (5, 6, 7, 8)],
    ),
    "cue and another object": (
        tcot(CUE[IMAGE] + ' {"a": 1}'),
        IMAGE,
        "several_cues wrong_cue_key",
        [(10, 20, 300, 400)],
    ),
    "cue in the answer": (
        f"<thinking>a</thinking><rethink>b</rethink><answer>c {CUE[IMAGE]}</answer>",
        IMAGE,
        "no_cue misplaced_cue",
        [(10, 20, 300, 400)],
    ),
    "no cue": (tcot(""), IMAGE, "no_cue", []),
    "single quotes": (tcot("{'bbox_2d': [[1, 2, 3, 4]]}"), IMAGE, "bad_json", [(1, 2, 3, 4)]),
    "trailing comma": (tcot('{"bbox_2d": [[1, 2, 3, 4],]}'), IMAGE, "bad_json", [(1, 2, 3, 4)]),
    "cut off": (tcot('{"bbox_2d": [[1, 2, 3, 4], [5, 6'), IMAGE, "bad_json", [(1, 2, 3, 4)]),
    "no braces": (tcot("bbox_2d: [[1, 2, 3, 4]]"), IMAGE, "bad_json", [(1, 2, 3, 4)]),
    "single-quoted keywords": (tcot("{'text_keywords': ['a b', 'c']}"), TEXT, "bad_json", ["a b", "c"]),
    "bad JSON without a cue": (tcot('{"x": }'), IMAGE, "bad_json", []),
    "nested too deeply": (boxes("[" * 50_000 + "]" * 50_000), IMAGE, "bad_json", []),
    "thousands of boxes": (
        boxes(str([[i, 0, i + 1, 9] for i in range(999)] * 2)),
        IMAGE,
        "too_many repeated_cue",
        None,
    ),
    "rethinking": (
        tcot().replace("rethink>", "rethinking>"),
        IMAGE,
        "wrong_tag",
        [(10, 20, 300, 400)],
    ),
    "upper case": (tcot().replace("<answer>", "<Answer>"), IMAGE, "wrong_tag", [(10, 20, 300, 400)]),
    "spaces in a tag": (tcot().replace("</answer>", "</ answer >"), IMAGE, "wrong_tag", [(10, 20, 300, 400)]),
    "text before": ("Sure! " + tcot(), IMAGE, "text_outside", [(10, 20, 300, 400)]),
    "text between": (tcot().replace("<answer>", "so <answer>"), IMAGE, "text_outside", [(10, 20, 300, 400)]),
    "text after": (tcot() + "<|im_end|>", IMAGE, "text_outside", [(10, 20, 300, 400)]),
    "no last closing tag": (tcot().removesuffix("</answer>"), IMAGE, "unclosed", [(10, 20, 300, 400)]),
    "no first closing tag": (tcot().replace("</thinking>", ""), IMAGE, "unclosed", [(10, 20, 300, 400)]),
    "no opening tag": (tcot().removeprefix("<thinking>"), IMAGE, "unopened", [(10, 20, 300, 400)]),
    "tag in prose": (tcot("I say <answer> later " + CUE[IMAGE]), IMAGE, "nested_tag", [(10, 20, 300, 400)]),
    "closing tag in prose": (tcot("</answer> " + CUE[IMAGE]), IMAGE, "stray_tag", [(10, 20, 300, 400)]),
    "own tag in prose": (tcot("<thinking> " + CUE[IMAGE]), IMAGE, "repeated_tag", [(10, 20, 300, 400)]),
    "extra closing tag": (tcot() + "</answer>", IMAGE, "stray_tag", [(10, 20, 300, 400)]),
    "answer before rethink": (
        f"<thinking>{CUE[IMAGE]}</thinking><answer>a red star</answer><rethink>keep the star</rethink>",
        IMAGE,
        "wrong_order",
        [(10, 20, 300, 400)],
    ),
    "two answers": (tcot() + "<answer>another</answer>", IMAGE, "repeated_tag", [(10, 20, 300, 400)]),
    "no thinking": (TAIL, IMAGE, "missing_tag no_cue", []),
    "native thinking first": (
        f"<think>hm {CUE[VIDEO]}</think>{tcot()}",
        IMAGE,
        "wrong_tag text_outside misplaced_cue",
        [(10, 20, 300, 400)],
    ),
    "NUL and a lone surrogate": (tcot("\0\ud800" + CUE[IMAGE]), IMAGE, "bad_character", [(10, 20, 300, 400)]),
}
SAME_TAIL_NOT = {"cue in the answer"}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name):
    text, modality, codes, expected = MALFORMED[name]
    result = parse(text, modality, num_frames=8)
    assert not result.ok
    assert result.codes == set(codes.split())
    read = result.tcot.cues
    if expected is not None:
        assert [list(read.text_keywords), list(read.boxes), list(read.key_frames)][
            [TEXT, IMAGE, VIDEO].index(modality)
        ] == expected
    if name not in SAME_TAIL_NOT:
        assert (result.tcot.rethink, result.tcot.answer) == ("keep the star", "a red star")
    for problem in result.problems:
        assert "\n" not in problem.message
        assert len(problem.message) < 250


@pytest.mark.parametrize("text", ["", " \n", "a red star", "<", "{", "}" * 9, "<thinking>", "</answer>"])
def test_text_without_a_template_misses_all_the_tags(text):
    result = parse(text, IMAGE)
    assert not result.ok
    missing = [p.message for p in result.problems if p.code == "missing_tag"]
    assert len(missing) >= 2


def test_text_without_tags_is_read_as_thinking():
    assert parse(f"a star {CUE[IMAGE]}", IMAGE).tcot == TCoT(f"a star {CUE[IMAGE]}", "", "", CUES[IMAGE])


def test_every_problem_is_listed():
    text = f'So: <thinking>{{"bbox_2d": [[9, 1, 2, 2000]], "n": 1}} {CUE[TEXT]}<rethinking></rethinking>'
    expected = (
        "text_outside unclosed wrong_tag empty_section missing_tag several_cues extra_key wrong_cue_key box_swapped"
    )
    assert parse(text, IMAGE).codes == {*expected.split(), "box_outside"}


def test_frames_have_no_upper_bound_when_their_number_is_unknown():
    assert parse(frames("[3, 99]"), VIDEO).ok
    assert parse(frames("[3, 99]"), VIDEO, num_frames=8).tcot.cues.key_frames == (3,)


def test_messages_say_what_was_found_and_what_is_asked_for():
    (problem,) = parse(frames("[3, 9]"), VIDEO, num_frames=8).problems
    assert problem.message == "frame 9 is outside 1..8; frames count from 1"
    (problem,) = parse(tcot(CUE[TEXT]), IMAGE).problems
    assert problem.message == "the cue object has 'text_keywords'; 'bbox_2d' is asked for"
    (problem,) = parse(boxes("[[1, 2, 3]" + ", [1, 2, 3]" * 4 + "]"), IMAGE).problems
    assert problem.message == "[1, 2, 3] is not four finite numbers [x1, y1, x2, y2] (5 times)"


prose = st.text(st.characters(codec="utf-8", exclude_characters='<>{}"\\\0[:='), max_size=40)
words = prose.map(str.strip).filter(bool)
coordinate = st.integers(0, 999)
box = st.tuples(coordinate, coordinate, coordinate, coordinate).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]) + 1, max(b[1], b[3]) + 1)
)


@given(
    modality=st.sampled_from(Modality),
    sections=st.tuples(prose, words, words),
    keywords=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="<\0")).map(str.strip).filter(bool), min_size=1
    ),
    boxes=st.lists(box, min_size=1),
    frames=st.lists(st.integers(1, 8), min_size=1),
)
def test_round_trip(modality, sections, keywords, boxes, frames):
    made = build(modality, *sections, keywords=keywords, boxes=boxes, frames=frames)
    result = parse(made.render(), modality, num_frames=8)
    assert result.ok
    assert result.tcot == made
    given_cues = {
        TEXT: tuple(dict.fromkeys(keywords)),
        IMAGE: tuple(dict.fromkeys(boxes)),
        VIDEO: tuple(dict.fromkeys(frames)),
    }
    assert (
        given_cues[modality]
        == {TEXT: made.cues.text_keywords, IMAGE: made.cues.boxes, VIDEO: made.cues.key_frames}[modality]
    )


def test_build_appends_the_cue_object_of_the_modality_and_rounds():
    made = build(
        IMAGE, " a star ", "r", "a", keywords=["x"], boxes=[(0.4, 20.0, 99.6, 40), (0, 20, 100, 40)], frames=[1]
    )
    assert made.thinking == 'a star {"bbox_2d": [[0, 20, 100, 40]]}'
    assert made.cues == Cues(boxes=((0, 20, 100, 40),))


@pytest.mark.parametrize(
    "arguments",
    [
        {"boxes": []},
        {"boxes": [(5, 5, 5, 9)]},
        {"boxes": [(0, 0, 1001, 5)]},
        {"boxes": [(1, 2, 3, 4)], "rethink": " "},
        {"boxes": [(1, 2, 3, 4)], "answer": "</answer>"},
        {"boxes": [(1, 2, 3, 4)], "thinking": '{"a": 1}'},
    ],
)
def test_build_refuses_what_would_not_parse(arguments):
    with pytest.raises(ValueError, match="not a valid image T-CoT: "):
        build(IMAGE, **{"thinking": "t", "rethink": "r", "answer": "a", **arguments})
