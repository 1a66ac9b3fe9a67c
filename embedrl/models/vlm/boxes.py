"""Boxes as T-CoTs write them, 0..1000, and as a model family does: translated where text enters and leaves it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from embedrl.tcot.prompts import SCALE

Coordinates = Literal["thousand", "pixels", "unit"]
"""How a family writes boxes: 0..1000, pixels of the picture as it reads it, or 0..1."""

_BOXES = re.compile(r"(\"bbox_2d\"\s{0,8}:\s{0,8})(\[[\d\s.,\[\]-]*)")
_LIST = re.compile(r"\[[^\[\]]*(?:\]|$)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def to_family(text: str, coordinates: Coordinates, size: tuple[float, float]) -> str:
    """A text with its boxes, and the words that say how to write them, as a family writes them.

    Args:
        text: Part of a prompt, or a T-CoT.
        coordinates: How the family writes boxes.
        size: Width and height in which it writes them: of the picture in pixels, or 1 and 1.

    >>> to_family('see {"bbox_2d": [[100, 500, 200, 1000]]}', "pixels", (280, 140))
    'see {"bbox_2d": [[28, 70, 56, 140]]}'
    """
    if coordinates == "thousand":
        return text
    scale = "numbers from 0 to 1 relative to the width and height of the first picture"
    if coordinates == "pixels":
        scale = f"integers in pixels of the first picture, which is {size[0]:.0f} wide and {size[1]:.0f} high"
    digits = 3 if coordinates == "unit" else 0
    return _changed(text, lambda value, side: f"{value * size[side] / 1000:.{digits}f}").replace(SCALE, scale)


def to_thousand(text: str, coordinates: Coordinates, size: tuple[float, float]) -> str:
    """A reply with its boxes as T-CoTs write them: the way back.

    Args:
        text: What the family wrote.
        coordinates: How it writes boxes.
        size: As for `to_family`.

    >>> to_thousand('see {"bbox_2d": [[0.1, 0.5, 0.2, 1]]}', "unit", (1, 1))
    'see {"bbox_2d": [[100, 500, 200, 1000]]}'
    """
    if coordinates == "thousand":
        return text
    return _changed(text, lambda value, side: f"{1000 * value / size[side]:.0f}")


def _changed(text: str, write: Callable[[float, int], str]) -> str:
    """A text with the numbers of its boxes written anew.

    Args:
        text: The text.
        write: Value and side (0 horizontal, 1 vertical) → number.
    """

    def numbers(box: re.Match[str]) -> str:
        sides = iter(range(len(box[0])))
        return _NUMBER.sub(lambda number: write(float(number[0]), next(sides) % 2), box[0])

    return _BOXES.sub(lambda match: match[1] + _LIST.sub(numbers, match[2]), text)
