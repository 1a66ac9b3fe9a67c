import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedrl.data.world import FAMILIES
from embedrl.data.world.scene import round_box
from embedrl.data.world.source import make_sample
from embedrl.data.world.teachers import BREAKS, LOOSE_IOU, Rates, annotator, iou, loosen, perfect
from embedrl.tcot.parser import parse
from embedrl.types import Modality

NEVER = {"elsewhere": 0.0, "whole": 0.0, "loose": 0.0, "extra": 0.0, "vague": 0.0, "broken": 0.0}


def views(family, count, split="train"):
    samples = [make_sample(family, split, 0, index) for index in range(count)]
    return [view for sample in samples for view in (sample.query, sample.target)]


def read(view, text):
    return parse(text, view.modality, len(view.clip.frames) if view.clip else None)


@pytest.mark.parametrize("family", FAMILIES)
def test_perfect_gives_exactly_what_retrieval_needs(family):
    for view in views(family, 60):
        result = read(view, perfect(view))
        assert result.ok, result.problems
        cues, needs = result.tcot.cues, view.needs
        assert result.tcot.answer == needs.answer
        assert cues.boxes == tuple(round_box(box) for box in needs.boxes)
        assert all(iou(got, exact) > 0.8 for got, exact in zip(cues.boxes, needs.boxes, strict=True))
        assert cues.key_frames == needs.frames
        assert cues.text_keywords == needs.keywords
        assert bool(needs.keywords) == (view.modality is Modality.TEXT)
        assert bool(needs.boxes) == (view.modality is Modality.IMAGE)
        assert bool(needs.frames) == (view.modality is Modality.VIDEO)


def test_nobody_tells_what_the_input_does_not_show():
    """A page's number is nowhere in the T-CoTs of the page."""
    pages = [view for view in views("doc", 100) if view.picture is not None]
    assert len(pages) == 100
    for view in pages:
        numbers = {str(number) for _, number in view.picture.contents}
        for text in (perfect(view), annotator(view, random.Random(0))):
            prose = text[: text.index("{")] + text[text.index("}") + 1 :] if "{" in text else text
            assert not numbers & set(prose.replace("<", " ").replace(">", " ").split())


@pytest.mark.parametrize("family", FAMILIES)
def test_annotator_s_format_breaks_at_its_rate_and_never_otherwise(family):
    sides = views(family, 150)
    for view in sides:
        assert read(view, annotator(view, random.Random(0), Rates(broken=0))).ok
        assert not read(view, annotator(view, random.Random(0), Rates(broken=1))).ok


@pytest.mark.parametrize("family", ["grounding", "moment", "doc"])
@pytest.mark.parametrize("break_", range(len(BREAKS)))
def test_every_break_is_a_problem(family, break_):
    for view in views(family, 5):
        result = read(view, BREAKS[break_](perfect(view)))
        assert result.problems


def test_rates_are_as_documented():
    rates = Rates()
    sides = [view for view in views("grounding", 1500) if view.text]
    rng = random.Random(0)
    results = [read(view, annotator(view, rng)) for view in sides]
    whole = loose = elsewhere = vague = boxes = extra = 0
    for view, result in zip(sides, results, strict=True):
        if not result.ok:
            continue
        got, tcot = result.tcot.cues.boxes, result.tcot
        boxes += len(got)
        whole += (0, 0, 1000, 1000) in got
        exact = [round_box(item.box) for item in view.items]
        loose += sum(box not in exact and box != (0, 0, 1000, 1000) for box in got)
        elsewhere += view.answer not in tcot.rethink
        vague += tcot.answer.startswith("a picture of ")
        extra += len(got) == 2
    good = sum(result.ok for result in results)
    assert 1 - good / len(results) == pytest.approx(rates.broken, abs=0.015)
    assert elsewhere / good == pytest.approx(rates.elsewhere, abs=0.04)
    assert vague / good == pytest.approx(rates.vague, abs=0.03)
    # Two whole pictures are one box.
    twice = rates.extra * rates.whole**2
    assert extra / good == pytest.approx(rates.extra - twice, abs=0.03)
    assert (whole + twice * good) / (boxes + twice * good) == pytest.approx(rates.whole, abs=0.03)
    assert loose / (boxes + twice * good) == pytest.approx(rates.loose, abs=0.04)


def test_without_errors_the_annotator_s_evidence_is_exact():
    for family in FAMILIES:
        for view in views(family, 30):
            tcot = read(view, annotator(view, random.Random(1), Rates(**NEVER))).tcot
            assert tcot.answer == view.answer
            assert tcot.cues.boxes == tuple(round_box(box) for box in view.needs.boxes)
            assert tcot.cues.key_frames == view.needs.frames


def test_elsewhere_is_true_of_the_side_and_the_answer_follows():
    pictures = [view for view in views("vqa", 100) if view.modality is Modality.IMAGE]
    assert len(pictures) == 100
    for view in pictures:
        tcot = read(view, annotator(view, random.Random(2), Rates(**{**NEVER, "elsewhere": 1.0}))).tcot
        (item,) = [item for item in view.items if item.name == tcot.answer]
        assert item.name != view.answer
        assert tcot.cues.boxes == (round_box(item.box),)
        assert f"{item.where} the {item.name}" in tcot.thinking


def test_loose_frames_are_one_late_and_whole_ones_are_spread():
    for view in views("moment", 40):
        needed = view.needs.frames
        length = len(view.clip.frames)
        late = read(view, annotator(view, random.Random(3), Rates(**{**NEVER, "loose": 1.0}))).tcot.cues.key_frames
        assert late == tuple(sorted({min(length, frame + 1) for frame in needed}))
        spread = read(view, annotator(view, random.Random(3), Rates(**{**NEVER, "whole": 1.0}))).tcot.cues.key_frames
        assert spread == ((1, 4, 8) if length == 8 else (1, 2, 3))


corner = st.floats(0, 740)
extent = st.floats(150, 260)


@given(corner, corner, extent, extent, st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_loose_boxes_have_the_documented_overlap(x, y, width, height, seed):
    box = (x, y, x + width, y + height)
    moved = loosen(box, random.Random(seed))
    assert LOOSE_IOU[0] <= iou(box, moved) <= LOOSE_IOU[1]
    assert 0 <= moved[0] < moved[2] <= 1000
    assert 0 <= moved[1] < moved[3] <= 1000


@pytest.mark.parametrize(
    ("one", "two", "value"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 10, 10), (5, 0, 15, 10), 1 / 3),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),
        ((0, 0, 10, 10), (2, 2, 2, 2), 0.0),
    ],
)
def test_iou(one, two, value):
    assert iou(one, two) == pytest.approx(value)
