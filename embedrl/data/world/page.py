"""Document pages: three rows of a large word and a small number, one row highlighted.

The word is legible in the model's input of 48 × 48; the number only in a crop of the row at native resolution.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from embedrl.data.world.draw import Floats, finish
from embedrl.data.world.scene import OWN_TRIPLES, Split
from embedrl.data.world.vocabulary import NUMBERS, PAGE_WORDS, ROWS
from embedrl.tcot.schema import Box

PAGE_SIZE = 144
"""Side of a page in native pixels; made for an input of 48 × 48, three tokens per row."""
_ROW = PAGE_SIZE // len(ROWS)
_BAND = (8, 4, PAGE_SIZE - 8, _ROW - 4)  # of a row, relative to its upper left corner
_WORD_SCALE = 2
_DIGIT_SCALE = (4, 5)  # width and height of a digit's pixel
_PLATE = (36, 32)  # width and height of the grey field that a number stands on
_PLATE_GREY, _HATCH_CONTRAST, _HATCH_PERIOD = 165, 85, 4.5

# 5 × 7 capitals, one hexadecimal pair a row: the five low bits are the pixels, left to right.
_LETTERS: dict[str, str] = {
    "a": "0e11111f111111",
    "b": "1e11111e11111e",
    "c": "0e11101010110e",
    "d": "1e11111111111e",
    "e": "1f10101e10101f",
    "f": "1f10101e101010",
    "g": "0e11101713110f",
    "h": "1111111f111111",
    "i": "0e04040404040e",
    "k": "11121418141211",
    "l": "1010101010101f",
    "m": "111b1515111111",
    "n": "11191513111111",
    "o": "0e11111111110e",
    "p": "1e11111e101010",
    "r": "1e11111e141211",
    "s": "0f10100e01011e",
    "t": "1f040404040404",
    "u": "1111111111110e",
    "v": "11111111110a04",
}
# 3 × 5 digits, one octal digit a row.
_DIGITS = ("75557", "26227", "71747", "71717", "55711", "74717", "74757", "71222", "75757", "75717")


@dataclass(frozen=True, slots=True)
class PageRow:
    """One row of a page.

    Attributes:
        word: Position in `PAGE_WORDS`.
        number: 10..99.
        x: Left edge of the number's field in native pixels.
        y: Upper edge of the number's field, relative to the row.
    """

    word: int
    number: int
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Page:
    """A page.

    Attributes:
        rows: The three rows from the top.
        highlighted: The tinted row, 0..2.
        paper: Colour of the page.
        tint: Colour behind the highlighted row.
        grain: Selects the noise.
    """

    rows: tuple[PageRow, PageRow, PageRow]
    highlighted: int
    paper: tuple[int, int, int]
    tint: tuple[int, int, int]
    grain: int

    @property
    def name(self) -> str:
        """The content as text: equal names mean equal pixels."""
        rows = ";".join(f"{r.word},{r.number},{r.x},{r.y}" for r in self.rows)
        colours = "/".join(".".join(map(str, colour)) for colour in (self.paper, self.tint))
        return f"world/page/{colours}/{self.grain}/{self.highlighted}/{rows}"

    def box(self, row: int) -> Box:
        """The row's band, 0..1000 of the page."""
        left, top, right, bottom = _BAND
        edges = (left, top + row * _ROW, right, bottom + row * _ROW)
        x1, y1, x2, y2 = (1000 * edge / PAGE_SIZE for edge in edges)
        return (x1, y1, x2, y2)

    @property
    def contents(self) -> tuple[tuple[str, int], ...]:
        """Word and number of each row."""
        return tuple((PAGE_WORDS[row.word], row.number) for row in self.rows)


def label_split(word: int, number: int) -> Split:
    """The split that owns a (word, number) label: 3/5 train, 1/5 val, 1/5 test.

    A Latin pattern: every word, number, and word with a first or second digit occurs in train.
    """
    rank = (2 * word + number + number // 10) % 5
    return "val" if rank == 0 else "test" if rank == 1 else "train"


@lru_cache(maxsize=4)
def labels(split: Split) -> tuple[tuple[int, int], ...]:
    """All (word, number) labels that are a split's own."""
    return tuple(
        (word, int(number))
        for word in range(len(PAGE_WORDS))
        for number in NUMBERS
        if label_split(word, int(number)) == OWN_TRIPLES[split]
    )


def make_page(rng: random.Random, labels_: list[tuple[int, int]], highlighted: int) -> Page:
    """A page of the given (word, number) rows.

    Args:
        rng: Source of colours and jitter.
        labels_: Three labels from the top.
        highlighted: The tinted row.
    """
    first, second, third = (
        PageRow(word, number, rng.randrange(95, 99), rng.randrange(5, 12)) for word, number in labels_
    )
    shade = rng.randrange(232, 250)
    paper = (shade, shade, rng.randrange(226, 250))
    tint = [250, 235, 150]
    rng.shuffle(tint)
    return Page((first, second, third), highlighted, paper, (tint[0], tint[1], tint[2]), rng.randrange(1 << 16))


def draw_page(page: Page) -> Image.Image:
    """Draw a page at native size, RGB."""
    canvas = np.empty((PAGE_SIZE, PAGE_SIZE, 3), dtype=np.float32)
    canvas[:] = page.paper
    left, top, right, bottom = _BAND
    canvas[top + page.highlighted * _ROW : bottom + page.highlighted * _ROW, left:right] = page.tint
    width, height = _PLATE
    for index, row in enumerate(page.rows):
        glyphs = _word(PAGE_WORDS[row.word])
        y, x = index * _ROW + (_ROW - glyphs.shape[0]) // 2, 11
        canvas[y : y + glyphs.shape[0], x : x + glyphs.shape[1]] *= 1 - 0.85 * glyphs[..., None]
        y = index * _ROW + row.y
        canvas[y : y + height, row.x : row.x + width] = _number(row.number)[..., None]
    return finish(canvas, page.grain)


@lru_cache(maxsize=32)
def _word(word: str) -> Floats:
    glyphs = np.concatenate(
        [_bitmap([int(_LETTERS[c][i : i + 2], 16) for i in range(0, 14, 2)], 5) for c in word], axis=1
    )
    return np.kron(glyphs[:, :-1], np.ones((_WORD_SCALE, _WORD_SCALE), dtype=np.float32))


@lru_cache(maxsize=128)
def _number(number: int) -> Floats:
    """The field with the number in grey levels.

    Digits are hatched with a wave of zero mean that is too fine for the input, so they vanish there rather than blur.
    """
    bitmaps = [_bitmap([int(row) for row in _DIGITS[int(digit)]], 3) for digit in str(number)]
    across, down = _DIGIT_SCALE
    strokes = np.kron(np.concatenate(bitmaps, axis=1)[:, :-1], np.ones((down, across), dtype=np.float32))
    width, height = _PLATE
    top, left = (height - strokes.shape[0]) // 2, (width - strokes.shape[1]) // 2
    phase = 2 * np.pi / _HATCH_PERIOD
    wave = np.sin(phase * np.add.outer(np.arange(strokes.shape[0]), np.arange(strokes.shape[1])))
    plate = np.full((height, width), _PLATE_GREY, dtype=np.float32)
    plate[top : top + strokes.shape[0], left : left + strokes.shape[1]] += _HATCH_CONTRAST * strokes * wave
    return plate


def _bitmap(rows: list[int], width: int) -> Floats:
    """A glyph with an empty column behind it, shape `[rows, width + 1]`."""
    bits = [[(row >> (width - 1 - column)) & 1 for column in range(width)] + [0] for row in rows]
    return np.array(bits, dtype=np.float32)
