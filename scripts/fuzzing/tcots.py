"""What a model writes as a T-CoT: parsed, rendered, rewarded, shown, kept."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from PIL import Image

from embedrl.data.lenient_render import fitting_chat
from embedrl.data.opened import OpenedImage
from embedrl.data.render import RenderOptions, render
from embedrl.rl.rewards.format import FormatReward
from embedrl.rl.rewards.judge import read_index
from embedrl.rl.types import Rollout, RolloutStep
from embedrl.tcot.cue_removal import without_cues
from embedrl.tcot.cues import read_cues
from embedrl.tcot.parser import parse
from embedrl.tcot.prompts import correction
from embedrl.tcot.schema import CUE_KEY, ProblemLog
from embedrl.tcot.store import Record, TCoTJournal
from embedrl.types import Modality, Pair, Role, Side
from embedrl.utils.reserved_words import COMMON, escape
from embedrl.visualization.evidence import draw_evidence
from fuzzing.mutate import TEXTS, Draw, mutated
from fuzzing.pictures import preprocessors
from fuzzing.rows import IMAGE_TCOT, TEXT_TCOT, VIDEO_TCOT, passing

_PIECES = [
    *("<thinking>", "</thinking>", "<rethink>", "</rethink>", "<answer>", "</answer>", "<think>", "</ Think >"),
    *("<ANSWERS/>"),
    *("{", "}", "[", "]", '"', "'", ":", ",", "\\", "\n", " ", "bbox_2d", "key_frames", "text_keywords"),
    *("\\u0062box_2d"),
    *('{"bbox_2d": [[1, 2, 3, 4]]}', '{"bbox_2d": [1, 2, 3, 4]}', "bbox_2d: [20, 100, 980, 101]"),
    *('{"key_frames": [1, 2]'),
    *('{"a": {"text_keywords": ["x"]}}', "1e999", "-0.0", "NaN", "9" * 400, "true", "null", "[" * 3000, '{"a":' * 3000),
    *("<|im_end|>", "<|im_start|>assistant", "<|image_pad|>", "<emb>", "</s>", "[INST]", "<eot_id>", "<|fim_pad|>"),
    *("\ud800", "\x00", "\x1b[2J", "\u202e", "ａ", "é\u0301", "[[0, 0, 1000, 0]]", "word " * 300, "1.5", "1001", "-1"),
]  # fmt: skip
_NUMBERS = st.one_of(st.integers(-5, 1100), st.floats(), st.sampled_from(["7", True, None, 10**400, 1e308]))
_CUES = st.one_of(
    st.lists(st.lists(_NUMBERS, min_size=2, max_size=5), max_size=4),
    st.lists(_NUMBERS, max_size=6),
    st.lists(TEXTS, max_size=3),
)
_IMAGE = OpenedImage("a", Image.new("RGB", (64, 40), "red"))
_SIDES = {
    Modality.TEXT: Side("some words"),
    Modality.IMAGE: Side("find", (_IMAGE, _IMAGE)),
    Modality.VIDEO: Side("", frames=(_IMAGE, _IMAGE, _IMAGE)),
}


def tcots(data: Draw, folder: Path) -> None:
    """A text of pieces of T-CoTs, or a good one with odd cues, for a side of any modality."""
    modality = data.draw(st.sampled_from(list(Modality)), label="modality")
    text = _text(data)
    side = _SIDES[modality].with_tcot(text)
    parsed = parse(text, modality, len(side.frames) or None)
    again = parse(parsed.tcot.render(), modality, len(side.frames) or None)
    assert not parsed.ok or (again.ok and again.tcot.cues == parsed.tcot.cues)
    _check_words(text)
    _reward(text, modality)
    correction([problem.message for problem in parsed.problems])
    read_index(text, 3)
    for options in (
        RenderOptions(), RenderOptions(on_bad_tcot="lenient", on_missing_tcot="raw"), RenderOptions(cues="off"),
        RenderOptions(cues="printed", on_bad_tcot="lenient", on_missing_tcot="raw", crop_margin=3.0),
    ):  # fmt: skip
        with passing():
            render(side, options)
    lenient = RenderOptions(on_bad_tcot="lenient", on_missing_tcot="raw")
    render(side, lenient)  # and this one always can
    if data.draw(st.integers(0, 9), label="whole") == 9:
        for preprocessor in preprocessors():
            preprocessor([fitting_chat(side, lenient, preprocessor, "", None, Counter())])
        draw_evidence(side)
    with TCoTJournal(folder / "tcots.jsonl") as journal:
        journal.put(Record("k", text, parsed.ok))
    with TCoTJournal(folder / "tcots.jsonl", read_only=True) as journal:
        assert journal.get("k") is not None


def _text(data: Draw) -> str:
    pieces = st.lists(st.one_of(st.sampled_from(_PIECES), TEXTS), max_size=10)
    if data.draw(st.booleans(), label="loose"):
        return "".join(data.draw(pieces, label="pieces"))
    good = data.draw(st.sampled_from([TEXT_TCOT, IMAGE_TCOT, VIDEO_TCOT]), label="good")
    before, cue, after = good.partition(good[good.index("{") : good.index("}") + 1])
    document: Any = mutated(data, json.loads(cue))
    if isinstance(document, dict) and document and data.draw(st.booleans(), label="odd"):
        document = {key: data.draw(_CUES, label="cues") for key in document}
    text = f"{before}{json.dumps(document, ensure_ascii=data.draw(st.booleans()))}{after}"
    at = data.draw(st.integers(0, len(text)), label="at")
    return text[:at] + "".join(data.draw(pieces, label="pieces")) + text[at:]


def _check_words(text: str) -> None:
    assert not COMMON.search(escape(text))
    rest = without_cues(text, objects=True)
    for modality in CUE_KEY:
        assert not read_cues(rest, (), modality, None, ProblemLog()).of(modality)


def _reward(text: str, modality: Modality) -> None:
    rollout = Rollout(0, Role.QUERY, 0, (), (), text)
    parsed = {rollout.id: parse(text, modality)}
    step = RolloutStep([Pair(Side("a"), Side("b"), "demo", "0")], [rollout], {}, parsed, frozenset(parsed))
    assert FormatReward()(step).values[rollout.id] in (0.0, 1.0)
