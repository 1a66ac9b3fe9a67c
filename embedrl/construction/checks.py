"""Cheap checks of pairs, before a model is asked."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np

from embedrl.data.reasoning import side_of
from embedrl.errors import ConfigError
from embedrl.tcot.evidence import crop_box
from embedrl.tcot.journal import content_hash
from embedrl.tcot.parse import parse
from embedrl.tcot.schema import ParseResult, ProblemCode
from embedrl.types import ImageSource, Modality, Pair, Role, Side

CheckName = Literal["format", "evidence", "keywords", "duplicate", "near_duplicate_text", "near_duplicate_picture"]

_EVIDENCE = {
    ProblemCode.NO_CUE,
    ProblemCode.WRONG_CUE_KEY,
    ProblemCode.BAD_JSON,
    ProblemCode.NOT_A_LIST,
    ProblemCode.EMPTY_CUE,
    ProblemCode.BAD_KEYWORD,
    ProblemCode.BAD_BOX,
    ProblemCode.BOX_EMPTY,
    ProblemCode.BOX_OUTSIDE,
    ProblemCode.BAD_FRAME,
}
_DULL = 2.0


class Checks:
    """The checks of one data set, in order; they remember the pairs that passed.

    - `format`: both T-CoTs follow the template.
    - `evidence`: there is a usable cue on both sides; every box lies inside the picture and shows more than one flat
      colour, every key frame exists. Opens the pictures.
    - `keywords`: a text's keywords stand in the text.
    - `duplicate`: the pair has the same query and target as an earlier one.
    - `near_duplicate_text`: the target's text is that of an earlier target but for case, accents, punctuation, spaces.
    - `near_duplicate_picture`: the target's first picture looks like that of an earlier target (the same 16 x 16
      gradients), though it is not the same. Opens the pictures.

    Targets that are exactly alike pass: the loss masks them. A near duplicate is a negative that it cannot see through.

    Args:
        names: The checks to make.

    Raises:
        ConfigError: If a check is unknown.
    """

    def __init__(self, names: Sequence[CheckName]) -> None:
        known = get_args(CheckName)
        for name in names:
            if name not in known:
                raise ConfigError(f"--checks {name}: give any of {', '.join(known)}")
        self.names = [name for name in known if name in names]
        self._pairs: set[tuple[str, str]] = set()
        self._texts: dict[str, str] = {}
        self._pictures: dict[bytes, str] = {}

    def __call__(self, pair: Pair) -> tuple[str, str]:
        """Check a pair.

        Returns:
            The cause for which it is left out, and one line more; both empty if it passes.

        Raises:
            DataError: If a picture is broken.
        """
        for role in Role:
            side = side_of(pair, role)
            if not side.tcot.strip():
                return "no_tcot", str(role)
            read = parse(side.tcot, side.modality, len(side.frames) or None)
            for name in self.names:
                problem = _OF_A_SIDE[name](side, read) if name in _OF_A_SIDE else ""
                if problem:
                    return name, f"{role}: {problem}"
        keys = content_hash(pair.query), content_hash(pair.target)
        looks = self._looks(pair.target)
        for name, seen in looks.items():
            if self._kept(name).get(seen, keys[1]) != keys[1]:
                return name, f"target: looks like that of an earlier pair: {pair.target.text[:80]!r}"
        if "duplicate" in self.names and keys in self._pairs:
            return "duplicate", "an earlier pair has this query and this target"
        self._pairs.add(keys)
        for name, seen in looks.items():
            self._kept(name)[seen] = keys[1]
        return "", ""

    def _looks(self, target: Side) -> dict[str, str | bytes]:
        looks: dict[str, str | bytes] = {}
        if "near_duplicate_text" in self.names and target.modality is Modality.TEXT:
            looks["near_duplicate_text"] = plain_text(target.text)
        if "near_duplicate_picture" in self.names and target.images:
            looks["near_duplicate_picture"] = gradients(target.images[0]) + target.text.encode("utf-8", "replace")
        return looks

    def _kept(self, name: str) -> dict[str | bytes, str]:
        return self._texts if name == "near_duplicate_text" else self._pictures  # type: ignore[return-value]


def plain_text(text: str) -> str:
    """A text without case, accents, punctuation and spare spaces.

    >>> plain_text("  Café,  au LAIT! ")
    'cafe au lait'
    """
    letters = unicodedata.normalize("NFKD", text.casefold())
    letters = "".join(c for c in letters if not unicodedata.combining(c))
    return " ".join(re.sub(r"[^\w\s]|_", " ", letters).split()) or text


def gradients(source: ImageSource, size: int = 16) -> bytes:
    """Where a picture gets brighter from left to right, over a grid: alike for copies of other size and quality.

    Args:
        source: The picture.
        size: Rows and columns of the grid.
    """
    grey = np.asarray(source.load().convert("L").resize((size + 1, size), 1), dtype=np.int16)
    return np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes()


def _format(side: Side, read: ParseResult) -> str:
    return read.problems[0].message if read.problems else ""


def _evidence(side: Side, read: ParseResult) -> str:
    for problem in read.problems:
        if problem.code in _EVIDENCE:
            return problem.message
    if side.modality is Modality.IMAGE:
        picture = side.images[0].load()
        for box in read.tcot.cues.boxes:
            if float(np.asarray(crop_box(picture, box), dtype=np.float32).std(axis=(0, 1)).max()) < _DULL:
                return f"box {[round(v) for v in box]} shows one flat colour"
    return ""


def _keywords(side: Side, read: ParseResult) -> str:
    text = plain_text(side.text)
    for word in read.tcot.cues.text_keywords if side.modality is Modality.TEXT else ():
        if plain_text(word) not in text:
            return f"keyword {word[:60]!r} is not in the text"
    return ""


_OF_A_SIDE: dict[str, Callable[[Side, ParseResult], str]] = {
    "format": _format,
    "evidence": _evidence,
    "keywords": _keywords,
}
