import pytest

from embedrl.metrics.replies import f1, matched_iou, score_reply
from embedrl.types import Lesson

BOX, HALF = (0, 0, 100, 100), (0, 0, 100, 50)


@pytest.mark.parametrize(
    ("found", "gold", "expected"),
    [
        ([BOX], [BOX], 1.0),
        ([HALF], [BOX], 0.5),
        ([], [BOX], 0.0),
        ([BOX], [], 0.0),
        ([], [], 1.0),
        ([BOX, BOX], [BOX], 0.5),
        ([(500, 500, 600, 600), BOX], [BOX, (500, 500, 600, 600)], 1.0),
        ([(200, 200, 300, 300)], [BOX], 0.0),
    ],
)
def test_matched_iou(found, gold, expected):
    assert matched_iou(found, gold) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("found", "gold", "expected"), [({1, 2}, {1, 2}, 1), ({1}, {1, 2}, 2 / 3), (set(), {1}, 0), (set(), set(), 1)]
)
def test_f1(found, gold, expected):
    assert f1(found, gold) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reply", "gold", "expected"),
    [
        ('red star top left {"bbox_2d": [[0, 0, 100, 50]]}', {"boxes": [BOX]}, {"exact": 0, "iou": 0.5}),
        ("no box at all", {"boxes": [BOX]}, {"exact": 0, "iou": 0}),
        ('{"key_frames": [2, 3]}', {"frames": (2, 3)}, {"exact": 0, "f1": 1}),
        ("gold reply", {"answer": "gold reply"}, {"exact": 1, "answer": 1}),
        (
            '<thinking>a {"bbox_2d": [[0, 0, 100, 100]]}</thinking><rethink>b</rethink><answer>c</answer>',
            {"boxes": [BOX], "answer": "c", "modality": "image"},
            {"exact": 0, "iou": 1, "answer": 1, "format": 1, "words": 6},
        ),
        (
            '<thinking>a {"text_keywords": ["d", "e"]}</thinking><rethink>b</rethink><answer>f</answer> g',
            {"keywords": ("d",), "answer": "c", "modality": "text"},
            {"exact": 0, "keyword_f1": 2 / 3, "answer": 0, "format": 0, "words": 5, "problem/text_outside": 1},
        ),
    ],
)
def test_score_reply(reply, gold, expected):
    assert score_reply(reply, Lesson([], "gold reply", "kind", gold)) == pytest.approx(expected)
