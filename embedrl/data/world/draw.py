"""From specification to pixels: antialiased shapes filled with zero-mean textures, fast enough for every step."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embedrl.data.world.scene import TEXTURES, Picture

if TYPE_CHECKING:
    pass

Floats = NDArray[np.float32]

PALETTE = np.array(
    [
        (205, 60, 60),
        (205, 130, 60),
        (200, 190, 60),
        (65, 160, 70),
        (65, 185, 195),
        (60, 80, 200),
        (150, 65, 175),
        (62, 62, 62),
    ],
    dtype=np.float32,
)
"""Colours in the order of `COLORS`; away from 0 and 255, so that textures are hardly clipped."""

CONTRAST = 58.0
"""Amplitude of a texture in grey levels; its mean is zero, so the blurred object has its palette colour."""
CYCLES = 10.0
"""Texture periods across an object: about 1.2 pixels each at the input's resolution, 3.6 in a crop."""
NOISE = 5.0
"""Standard deviation of the grain on every pixel, in grey levels."""

_STAR_INNER = 0.45
_CROSS_ARM = 0.36
_SPLIT_ROW = {0: 0.5, 1: 0.5, 2: 0.68, 3: 0.5, 4: 0.49, 5: 0.5}
"""Where the mark's halves meet, by shape, as a share of the height (so that both have about the same area)."""


def draw_picture(picture: Picture) -> Image.Image:
    """Draw a scene, frame or close-up at native size (about a third of a millisecond)."""
    canvas = np.empty((picture.size, picture.size, 3), dtype=np.float32)
    canvas[:] = picture.background
    for thing in picture.things:
        alpha, texture = _stamp(thing.shape, thing.size, thing.mark)
        patch = canvas[thing.y : thing.y + thing.size, thing.x : thing.x + thing.size]
        patch += alpha * (PALETTE[thing.color] + texture - patch)
    return finish(canvas, picture.grain)


def finish(canvas: Floats, grain: int) -> Image.Image:
    """Add the grain and turn floats into a picture."""
    height, width = canvas.shape[:2]
    plane = _noise()
    top, left = grain % (plane.shape[0] - height), (grain // 251) % (plane.shape[1] - width)
    canvas += plane[top : top + height, left : left + width, None]
    return Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))


@lru_cache(maxsize=1)
def _noise() -> Floats:
    # RandomState is frozen by numpy, so the pixels are the same on every machine and version.
    return (NOISE * np.random.RandomState(0).standard_normal((512, 512))).astype(np.float32)


@lru_cache(maxsize=1024)
def _stamp(shape: int, size: int, mark: int) -> tuple[Floats, Floats]:
    upper, lower = divmod(mark, TEXTURES)
    rows = np.arange(size)[:, None] >= _SPLIT_ROW[shape] * size
    texture = np.where(rows, _texture(lower, size), _texture(upper, size))
    return shape_mask(shape, size)[..., None], texture.astype(np.float32)[..., None]


@lru_cache(maxsize=256)
def _texture(index: int, size: int) -> Floats:
    """One of the seven textures.

    Pure sines: a square wave's harmonics would alias into what the input shows. Diagonals have the same frequency
    along each axis as stripes, since resizing is separable.
    """
    phase = 2 * np.pi * CYCLES * (np.arange(size) + 0.5) / size
    x, y = phase[None, :], phase[:, None]
    waves = {
        0: 0 * x * y,
        1: np.sin(y) + 0 * x,
        2: np.sin(x) + 0 * y,
        3: np.sin(x + y),
        4: np.sin(x - y),
        5: np.sin(x) * np.sin(y),
        6: (np.sin(x) + np.sin(y)) / 2,
    }
    wave: Floats = (CONTRAST * waves[index]).astype(np.float32)
    return wave


@lru_cache(maxsize=256)
def shape_mask(shape: int, size: int, supersample: int = 4) -> Floats:
    """Coverage 0..1 of a shape that touches all four sides of its box, shape `[size, size]`."""
    steps = (np.arange(size * supersample) + 0.5) / (size * supersample) * 2 - 1
    x, y = np.meshgrid(steps, steps)
    inside = _INSIDE[shape](x, y)
    blocks = inside.reshape(size, supersample, size, supersample).mean((1, 3))
    mask: Floats = blocks.astype(np.float32)
    return mask


def _star(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    # A five-pointed star, stretched to fill its box: its points reach y from -1 to 0.81 and x to 0.95.
    y = (y + 1) / 2 * 1.809 - 1
    x = x * 0.951
    angle = np.arctan2(x, -y)
    sector = np.pi / 5
    within = np.abs((angle + sector) % (2 * sector) - sector)
    radius = np.hypot(x, y)
    # The edge runs from the point (radius 1, angle 0) to the notch (radius _STAR_INNER, angle `sector`).
    notch_x, notch_y = _STAR_INNER * np.cos(sector), _STAR_INNER * np.sin(sector)
    px, py = radius * np.cos(within), radius * np.sin(within)
    return np.asarray((1 - px) * notch_y - py * (1 - notch_x) >= 0)


_INSIDE: dict[int, Any] = {
    0: lambda x, y: x * x + y * y <= 1,
    1: lambda x, y: np.maximum(abs(x), abs(y)) <= 1,
    2: lambda x, y: abs(x) <= (y + 1) / 2,
    3: lambda x, y: abs(x) + abs(y) <= 1,
    4: _star,
    5: lambda x, y: np.minimum(abs(x), abs(y)) <= _CROSS_ARM,
}
