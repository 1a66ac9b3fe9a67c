"""The prompts of a Reasoner in each of the seven generation situations. Source: Embed-RL §3.2, F.1, F.2."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

from embedrl.tcot.schema import CUE_KEY
from embedrl.types import Modality, Role

Style = Literal["full", "brief"]


class Situation(StrEnum):
    """The seven situations in which a T-CoT is written."""

    QUERY_TEXT_FOR_IMAGE = "query_text_for_image"
    QUERY_TEXT_FOR_VIDEO = "query_text_for_video"
    QUERY_IMAGE = "query_image"
    QUERY_VIDEO = "query_video"
    TARGET_TEXT = "target_text"
    TARGET_IMAGE = "target_image"
    TARGET_VIDEO = "target_video"

    @property
    def modality(self) -> Modality:
        """Modality of the side that the T-CoT describes; determines the cue key."""
        return next(m for m in Modality if self.value.split("_")[1] == m.value)


_TASK = {
    Situation.QUERY_TEXT_FOR_IMAGE: (
        "You are given a text query. It searches a collection of pictures, document pages or short texts. "
        "Work out what the right result must show or say."
    ),
    Situation.QUERY_TEXT_FOR_VIDEO: (
        "You are given a text query. It searches a collection of videos. "
        "Work out who or what the right video shows, what happens in it, and in which order."
    ),
    Situation.QUERY_IMAGE: (
        "You are given a query made of a picture or a document page, often with an instruction or a question. "
        "Work out what it asks for and which parts of the picture decide it."
    ),
    Situation.QUERY_VIDEO: (
        "You are given a query made of sampled video frames, often with an instruction or a question. "
        "Work out what it asks for and which moments of the video decide it."
    ),
    Situation.TARGET_TEXT: (
        "You are given a text from a collection that others will search with pictures, videos or questions. "
        "Write it up so that the queries it answers find it."
    ),
    Situation.TARGET_IMAGE: (
        "You are given a picture or a document page from a collection that others will search. "
        "Write it up so that the queries it answers find it."
    ),
    Situation.TARGET_VIDEO: (
        "You are given sampled frames of a video from a collection that others will search. "
        "Write it up so that the queries it answers find it."
    ),
}

SCALE = "integers from 0 to 1000 relative to the width and height of the first picture"
"""How the prompts describe the coordinates of boxes; a model family with others replaces it."""

_CUE = {
    Modality.TEXT: (
        'the decisive words or phrases, copied from the text: {"text_keywords": ["first phrase", "second phrase"]}'
    ),
    Modality.IMAGE: (
        f"the decisive regions as [x1, y1, x2, y2], {SCALE}, top left corner first, always a list of boxes: "
        '{"bbox_2d": [[120, 80, 560, 910]]}'
    ),
    Modality.VIDEO: (
        'the decisive frames by their number in the given order, the first frame being 1: {"key_frames": [2, 5]}'
    ),
}

_HINTS = {
    Role.QUERY: (
        "Captions and news: name the people, things, places and events that are asked for. Dialogue: follow it to its "
        "last turn and keep what still holds. Questions: find the answer and state it. Classification: settle on one "
        "label. A change that is asked for (the same, but ...): describe the result after the change. Grounding: "
        "describe the one object or moment that is meant, apart from everything like it."
    ),
    Role.TARGET: (
        "Captions and news: keep names, things, places and events. Dialogue: keep what it is about. An answer or a "
        "label: say what it stands for in full. Documents: keep title, subject, figures and what they measure. "
        "A cropped region or a short clip: describe its subject by kind, colour, marks and action."
    ),
}

_BRIEF = {
    Situation.QUERY_TEXT_FOR_IMAGE: "text query for an image:",
    Situation.QUERY_TEXT_FOR_VIDEO: "text query for a video:",
    Situation.QUERY_IMAGE: "image query:",
    Situation.QUERY_VIDEO: "video query:",
    Situation.TARGET_TEXT: "target text:",
    Situation.TARGET_IMAGE: "target image:",
    Situation.TARGET_VIDEO: "target video:",
}


def situation(side: Modality, role: Role, counterpart: Modality) -> Situation:
    """The situation of a side.

    Args:
        side: Modality of the side that the T-CoT describes.
        role: Whether it is the query or the target.
        counterpart: Modality of the other half; only a text query depends on it. A text that searches texts
            (the paper has no such case) counts as one that searches pictures.
    """
    if role is Role.TARGET:
        return Situation(f"target_{side}")
    if side is not Modality.TEXT:
        return Situation(f"query_{side}")
    return Situation.QUERY_TEXT_FOR_VIDEO if counterpart is Modality.VIDEO else Situation.QUERY_TEXT_FOR_IMAGE


def prompt(situation: Situation, style: Style = "full") -> str:
    """The instruction that asks for a T-CoT.

    Args:
        situation: Which side the T-CoT describes, and for which search.
        style: `full` explains the format; `brief` is one short line for small models that were trained on it.
    """
    if style == "brief":
        return _BRIEF[situation]
    modality = situation.modality
    role = Role.TARGET if situation.startswith("target") else Role.QUERY
    return "\n".join(
        [
            _TASK[situation],
            "Write exactly three parts, each in its tags, in this order and with nothing outside them:",
            "<thinking>what you observe and why it matters, and the cue object</thinking>"
            "<rethink>which of it retrieval needs, and what can be dropped</rethink>"
            "<answer>a short restatement made for retrieval</answer>",
            "Rules:",
            "- One or two sentences a part.",
            "- Use only evidence found in the input; do not guess what cannot be seen or read there.",
            f"- Inside <thinking>, exactly one JSON object with the only key {CUE_KEY[modality]}: {_CUE[modality]}",
            "- No other JSON and no other tags.",
            f"Adapt to the task. {_HINTS[role]}",
        ]
    )


def correction(problems: Sequence[str]) -> str:
    """The follow-up prompt for a T-CoT that deviates from the template.

    Args:
        problems: What is wrong, one line each.
    """
    return "\n".join(
        [
            "Your answer does not follow the rules:",
            *(f"- {problem}" for problem in problems[:10]),
            "Write all three parts again, with these mended and nothing else changed.",
        ]
    )
