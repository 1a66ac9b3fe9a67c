"""The T-CoT: three sections, and cues that refer to parts of the side. Source: Embed-RL §3.2."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum

from embedrl.types import Modality

Box = tuple[float, float, float, float]
"""`(x1, y1, x2, y2)` in 0..1000 of the picture's width and height, `x1 <= x2` and `y1 <= y2`."""

SECTIONS = ("thinking", "rethink", "answer")
"""The tags of a T-CoT, in order."""

STOP = (f"</{SECTIONS[-1]}>",)
"""Texts that end the writing of a T-CoT: its last tag, in training and evaluation alike."""

CUE_KEY = {Modality.TEXT: "text_keywords", Modality.IMAGE: "bbox_2d", Modality.VIDEO: "key_frames"}
"""The one JSON key that the cue object of a side must carry."""

MAX_ENTRIES = 1000
"""The most tags, JSON objects, or entries in one of them that are read, so that adversarial text stays cheap."""


@dataclass(frozen=True, slots=True)
class Cues:
    """The parts of a side that the `thinking` section refers to.

    Attributes:
        text_keywords: Words and phrases of the text.
        boxes: Regions of the side's first picture, 0..1000 of its width and height.
        key_frames: 1-based positions in the sampled frames, in the order they were named.
    """

    text_keywords: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    key_frames: tuple[int, ...] = ()

    def of(self, modality: Modality) -> tuple[str, ...] | tuple[Box, ...] | tuple[int, ...]:
        """The cues that a side of this modality must have."""
        if modality is Modality.TEXT:
            return self.text_keywords
        return self.boxes if modality is Modality.IMAGE else self.key_frames

    def to_json(self, modality: Modality) -> str:
        """The cue object of a side of this modality, e.g. `{"bbox_2d": [[20, 40, 320, 340]]}`."""
        values: dict[Modality, list[object]] = {
            Modality.TEXT: list(self.text_keywords),
            Modality.IMAGE: [[round(v) for v in box] for box in self.boxes],
            Modality.VIDEO: list(self.key_frames),
        }
        return json.dumps({CUE_KEY[modality]: values[modality]}, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class TCoT:
    """An evidential traceability chain of thought.

    Attributes:
        thinking: Prose and the text of the JSON cue object.
        rethink: What retrieval needs of it.
        answer: A short restatement made for retrieval.
        cues: The cues read from `thinking`.
    """

    thinking: str
    rethink: str
    answer: str
    cues: Cues = field(default_factory=Cues)

    def render(self) -> str:
        """The T-CoT as text, in the order of the template."""
        return "".join(f"<{name}>{getattr(self, name)}</{name}>" for name in SECTIONS)


class ProblemCode(StrEnum):
    """What can be wrong with a T-CoT."""

    MISSING_TAG = "missing_tag"
    WRONG_TAG = "wrong_tag"
    REPEATED_TAG = "repeated_tag"
    NESTED_TAG = "nested_tag"
    STRAY_TAG = "stray_tag"
    UNCLOSED = "unclosed"
    UNOPENED = "unopened"
    WRONG_ORDER = "wrong_order"
    TEXT_OUTSIDE = "text_outside"
    EMPTY_SECTION = "empty_section"
    BAD_CHARACTER = "bad_character"
    NO_CUE = "no_cue"
    SEVERAL_CUES = "several_cues"
    MISPLACED_CUE = "misplaced_cue"
    WRONG_CUE_KEY = "wrong_cue_key"
    EXTRA_KEY = "extra_key"
    DUPLICATE_KEY = "duplicate_key"
    BAD_JSON = "bad_json"
    NOT_A_LIST = "not_a_list"
    EMPTY_CUE = "empty_cue"
    TOO_MANY = "too_many"
    REPEATED_CUE = "repeated_cue"
    BAD_KEYWORD = "bad_keyword"
    BAD_BOX = "bad_box"
    BOX_SWAPPED = "box_swapped"
    BOX_EMPTY = "box_empty"
    BOX_OUTSIDE = "box_outside"
    FLOAT_COORDINATE = "float_coordinate"
    BAD_FRAME = "bad_frame"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a T-CoT.

    Attributes:
        code: The kind of problem, for counting.
        message: One line: what the text holds, and what is required.
    """

    code: ProblemCode
    message: str


@dataclass(frozen=True, slots=True)
class ParseResult:
    """The lenient reading and the strict verdict of one T-CoT.

    Attributes:
        tcot: The best reading of the text; its fields may be empty.
        problems: Every deviation from the template, each kind once.
        one_box: Whether the cue that is asked for is one box in place of a list, `"bbox_2d": [x1, y1, x2, y2]`. The
            template allows both.
    """

    tcot: TCoT
    problems: tuple[Problem, ...] = ()
    one_box: bool = False

    @property
    def ok(self) -> bool:
        """True if the text follows the template exactly (what the format reward checks)."""
        return not self.problems

    @property
    def codes(self) -> frozenset[ProblemCode]:
        """The kinds of all problems."""
        return frozenset(problem.code for problem in self.problems)


def clean_text(text: str) -> str:
    """Replace what is not Unicode text (lone surrogates) and NUL: tokenizers and files refuse them."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", " ")


class ProblemLog:
    """Collects problems; a deviation that occurs many times is listed once, with its count.

    Attributes:
        one_box: See `ParseResult`.
    """

    def __init__(self) -> None:
        self.one_box = False
        self._first: dict[tuple[ProblemCode, str], str] = {}
        self._count: dict[tuple[ProblemCode, str], int] = {}

    def add(self, code: ProblemCode, message: str, kind: str = "") -> None:
        """Add a problem.

        Args:
            code: The kind of problem.
            message: One line; only the first of a kind is kept.
            kind: Distinguishes problems of one code that get a line each, such as the tag.
        """
        key = (code, kind)
        self._first.setdefault(key, message)
        self._count[key] = self._count.get(key, 0) + 1

    def problems(self) -> tuple[Problem, ...]:
        """The problems in the order they were first seen."""
        return tuple(
            Problem(code, message if self._count[code, kind] == 1 else f"{message} ({self._count[code, kind]} times)")
            for (code, kind), message in self._first.items()
        )
