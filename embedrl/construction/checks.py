"""Cheap checks of pairs, before a model is asked."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
from PIL.Image import Resampling

from embedrl.construction.pictures import check_files
from embedrl.errors import ConfigError
from embedrl.tcot.chat import side_of
from embedrl.tcot.evidence import crop_box
from embedrl.tcot.parser import parse
from embedrl.tcot.schema import ParseResult, ProblemCode
from embedrl.tcot.store import content_hash
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
_GLYPHS = str.maketrans({**dict.fromkeys("‘’‛", "'"), **dict.fromkeys("“”„‟", '"'), **dict.fromkeys("‐‑–—−", "-")})
_STOP = re.compile(r"(?<=[^\W\d_][^\s\d_.,;:!…]) ?[.,;:!…。！，、।॥]+\Z")  # not of `5!`, `n!`, `U.S.`


class Checks:
    """The checks of one data set, in order; they remember the pairs that passed.

    - `format`: both T-CoTs follow the template.
    - `evidence`: there is a usable cue on both sides; every box lies inside the picture and shows more than one flat
      colour, every key frame exists. Opens the pictures that have boxes; the files of all others must be there.
    - `keywords`: a text's keywords stand in the text.
    - `duplicate`: the pair has the same query and target as an earlier one.
    - `near_duplicate_text`: the target's text is that of an earlier one but for case, spaces and the stop at its end.
    - `near_duplicate_picture`: the target's first picture looks like that of an earlier target with the same text (at
      most 7 of 16 x 16 gradients differ), though it is not the same. Opens the pictures.

    Targets that are exactly alike pass: the loss masks them. A near duplicate is a false negative that it cannot mask.

    Args:
        names: The checks to make.
        strict_boxes: Let `format` ask for a list of boxes also where there is one: `[[x1, y1, x2, y2]]`.

    Raises:
        ConfigError: If a check is unknown.
    """

    def __init__(self, names: Sequence[CheckName], strict_boxes: bool = False) -> None:
        known = get_args(CheckName)
        for name in names:
            if name not in known:
                raise ConfigError(f"--checks {name}: give any of {', '.join(known)}")
        self.names, self.strict_boxes = [name for name in known if name in names], strict_boxes
        self._pairs: set[tuple[str, str]] = set()
        self._texts: dict[str, str] = {}
        self._pictures = _PictureIndex()

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
            if "format" in self.names and self.strict_boxes and read.one_box:
                return "format", f"{role}: 'bbox_2d' is one box; strict_boxes asks for a list of boxes"
            for name in self.names:
                problem = _OF_A_SIDE[name](side, read) if name in _OF_A_SIDE else ""
                if problem:
                    return name, f"{role}: {problem}"
        keys = content_hash(pair.query), content_hash(pair.target)
        text = plain_text(pair.target.text)
        if "near_duplicate_text" in self.names and pair.target.modality is Modality.TEXT:
            if self._texts.get(text, keys[1]) != keys[1]:
                return "near_duplicate_text", f"target: like that of an earlier pair: {pair.target.text[:80]!r}"
        else:
            text = ""
        bits: bytes | None = None
        if "near_duplicate_picture" in self.names and pair.target.images:
            bits = gradients(pair.target.images[0])
            if self._pictures.holds_other(bits, pair.target.text, keys[1]):
                return "near_duplicate_picture", f"target: like that of an earlier pair: {pair.target.images[0].name}"
        if "duplicate" in self.names and keys in self._pairs:
            return "duplicate", "an earlier pair has this query and this target"
        self._pairs.add(keys)
        if text:
            self._texts[text] = keys[1]
        if bits is not None:
            self._pictures.add(bits, pair.target.text, keys[1])
        return "", ""


class _PictureIndex:
    """Pictures by their gradients; finds those that differ in fewer bits than there are bands.

    Two rows of bits with fewer differences than bands have a band in common: only such rows are compared.
    """

    bands = 8

    def __init__(self) -> None:
        self._buckets: dict[tuple[int, bytes, str], list[tuple[bytes, str]]] = {}

    def _places(self, bits: bytes, text: str) -> list[tuple[int, bytes, str]]:
        size = len(bits) // self.bands
        return [(band, bits[band * size : (band + 1) * size], text) for band in range(self.bands)]

    def add(self, bits: bytes, text: str, key: str) -> None:
        for place in self._places(bits, text):
            bucket = self._buckets.setdefault(place, [])
            if (bits, key) not in bucket:
                bucket.append((bits, key))

    def holds_other(self, bits: bytes, text: str, key: str) -> bool:
        """Whether a target other than `key` has such a picture."""
        number = int.from_bytes(bits)
        for place in self._places(bits, text):
            for other, name in self._buckets.get(place, ()):
                if name != key and (number ^ int.from_bytes(other)).bit_count() < self.bands:
                    return True
        return False


def plain_text(text: str) -> str:
    """A text without case, spare spaces and the stop at its end, with plain quotes and dashes.

    Nothing else is removed: accents, vowel signs, operators and the punctuation inside a text can change its meaning.

    >>> plain_text("  Café  au LAIT! ")
    'café au lait'
    """
    words = unicodedata.normalize("NFC", " ".join(text.lower().split()).translate(_GLYPHS))
    return _STOP.sub("", words)


def gradients(source: ImageSource, size: int = 16) -> bytes:
    """Where a picture gets brighter from left to right, over a grid: alike for copies of other size and quality.

    Args:
        source: The picture.
        size: Rows and columns of the grid.
    """
    small = source.load().convert("L").resize((size + 1, size), Resampling.BOX)  # others ring at edges
    grey = np.asarray(small, dtype=np.int16)
    return np.packbits(grey[:, 1:] > grey[:, :-1] + _DULL).tobytes()


def _format(side: Side, read: ParseResult) -> str:
    return read.problems[0].message if read.problems else ""


def _evidence(side: Side, read: ParseResult) -> str:
    for problem in read.problems:
        if problem.code in _EVIDENCE:
            return problem.message
    check_files(side)
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
