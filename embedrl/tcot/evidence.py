"""Cues → evidence: crops of the original picture. Source: Embed-RL §3.3, B.3."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from embedrl.tcot.schema import Box, TCoT

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_RATIO = 200
"""The longest picture, as length over width, that models of the Qwen-VL family read."""


def crop_box(image: Image, box: Box, margin: float = 0.0, min_size: int = 1) -> Image:
    """Cut a box out of a picture at its native resolution.

    Args:
        image: The original picture, of any aspect ratio.
        box: The region, 0..1000 of width and height.
        margin: Share of the box's own size added on each side; what leaves the picture is cut off.
        min_size: Least width and height of the crop in pixels (the picture's own size if that is less).

    Returns:
        The crop; never empty, also for a box without area.
    """
    x1, y1, x2, y2 = box
    left, right = _span(x1, x2, image.width, margin, min_size)
    top, bottom = _span(y1, y2, image.height, margin, min_size)
    return image.crop((left, top, right, bottom))


def jitter_box(box: Box, rng: random.Random, amount: float) -> Box:
    """Move each side of a box by up to `amount`, so that training sees evidence that is a little off.

    Args:
        box: The region, 0..1000.
        rng: Source of randomness; four draws are made.
        amount: Largest shift of a side, in 0..1000.

    Returns:
        A box in order, inside 0..1000, at least 1/1000 wide and high.
    """
    x1, y1, x2, y2 = (min(1000.0, max(0.0, v + rng.uniform(-amount, amount))) for v in box)
    left, top = min(x1, x2, 999.0), min(y1, y2, 999.0)
    return left, top, max(x1, x2, left + 1), max(y1, y2, top + 1)


def split_at_evidence(tcot: TCoT) -> tuple[str, str]:
    """The text up to and including `</thinking>`, and the rest: evidence goes between them."""
    head, closing, tail = tcot.render().partition("</thinking>")
    return head + closing, tail


def _span(low: float, high: float, size: int, margin: float, min_size: int) -> tuple[int, int]:
    """Pixel range of one axis: the margin added, rounded outwards, at least `min_size`, inside the picture."""
    grow = margin * (high - low)
    # Rounding first: 66.00000001 pixels are 66, not 67.
    start = max(0, math.floor(round((low - grow) * size / 1000, 6)))
    stop = min(size, math.ceil(round((high + grow) * size / 1000, 6)))
    least = max(1, min(min_size, size))
    if stop - start < least:
        start = min(max(0, (start + stop - least) // 2), size - least)
        stop = start + least
    return start, stop
