"""Cues that a policy writes: thin boxes give crops that can be read, loose cues can be taken out."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_helpers import policy_model
from policy_words import GOOD, LOOSE, THIN, boxes, page, words
from qwen_helpers import user

from embedrl.data.render import RenderOptions, render
from embedrl.inference.frozen_embedder import LENIENT
from embedrl.tcot.cue_removal import without_cues
from embedrl.tcot.cues import read_cues
from embedrl.tcot.parser import build
from embedrl.tcot.schema import CUE_KEY, ProblemLog
from embedrl.types import Modality, Side


@pytest.fixture(scope="module")
def policy():
    return policy_model(max_length=2048).eval()


@pytest.mark.parametrize(
    "box", [THIN, [100, 20, 101, 980], [0, 0, 1000, 0], [1000, 0, 1000, 1000], [500, 500, 500, 500]]
)
def test_a_thin_box_gives_a_crop_that_the_model_reads(policy, box):
    repairs = Counter()
    chat = render(page(boxes(box)), LENIENT, repairs=repairs)
    crop = chat[0]["content"][-3]
    assert crop["evidence"]
    assert max(crop["image"].size) <= 200 * min(crop["image"].size)
    assert repairs["evidence_grown"] == (max(box[2] - box[0], box[3] - box[1]) > 900)
    assert policy.preprocessor().prompts([[user(crop)]])["image_grid_thw"].prod() > 0


@pytest.mark.parametrize("section", ["thinking", "rethink", "answer"])
@pytest.mark.parametrize("cue", LOOSE)
def test_cues_off_leaves_no_cue(cue, section):
    tcot = GOOD.format(cue="")
    tcot = tcot.replace(f"</{section}>", f" {cue} stays</{section}>")
    chat = render(Side("q", tcot=tcot), RenderOptions(cues="off", on_bad_tcot="lenient"))
    shown = words(chat)
    assert not any(key in shown for key in CUE_KEY.values())
    assert "stays" in shown
    assert shown.count("<") == 6
    answer = render(Side("q", tcot=tcot), RenderOptions(tcot="answer_only", on_bad_tcot="lenient"))
    assert not any(key in words(answer) for key in CUE_KEY.values())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([*LOOSE, "{", "}", '"', "[1, 2, 3, 4]", ":", "bbox_2d", "key_frames", " ", "\n", "x"]),
        max_size=9,
    )
)
def test_no_cue_can_be_read_after_removal(parts):
    rest = without_cues("".join(parts), objects=True)
    for modality in Modality:
        assert not read_cues(rest, (), modality, None, ProblemLog()).of(modality)


@pytest.mark.parametrize("modality", list(Modality))
def test_good_tcots_lose_their_cue_and_nothing_else(modality):

    cue = {"keywords": ["a {b}", 'c "d"']}, {"boxes": [(1, 2, 30, 40)]}, {"frames": [1, 2]}
    tcot = build(modality, "The bbox_2d: see it.", "Some {x} here.", "A.", **cue[list(Modality).index(modality)])
    old = re.sub(r"""\s*\{(?:[^{}"]|"(?:[^"\\]|\\.)*")*\}""", "", tcot.thinking)
    assert without_cues(tcot.thinking, objects=True) == old
    assert without_cues(tcot.rethink) == tcot.rethink


def test_removal_takes_linear_time():
    for text_ in (" " * 300_000, "{" * 300_000, '{"bbox_2d": [' * 20_000, "bbox_2d: [1" * 20_000):
        without_cues(text_, objects=True)
