import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from embedrl.tcot.evidence import crop_box, jitter_box, split_at_evidence
from embedrl.tcot.parser import build
from embedrl.types import Modality

coordinate = st.floats(0, 1000)
boxes = st.tuples(coordinate, coordinate, coordinate, coordinate).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


def picture(width, height):
    """Every pixel names its own place."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x % 256, y % 256, x // 256], -1).astype(np.uint8), "RGB")


def span(crop):
    pixels = np.asarray(crop).astype(int)
    x = pixels[..., 0] + 256 * pixels[..., 2]
    return x.min(), pixels[..., 1].min(), x.max() + 1, pixels[..., 1].max() + 1


@pytest.mark.parametrize(
    ("size", "box", "margin", "expected"),
    [
        ((200, 100), (0, 0, 1000, 1000), 0.0, (0, 0, 200, 100)),
        ((200, 100), (100, 200, 500, 600), 0.0, (20, 20, 100, 60)),  # not square: width and height scale apart
        ((200, 100), (100, 200, 500, 600), 0.1, (12, 16, 108, 64)),
        ((200, 100), (0, 0, 500, 500), 0.5, (0, 0, 150, 75)),
        ((96, 96), (320, 320, 680, 680), 0.0, (30, 30, 66, 66)),  # 30.72 .. 65.28 rounded outwards
        ((1000, 250), (7, 4, 8, 8), 0.0, (7, 1, 8, 2)),
        ((200, 100), (500, 500, 500, 500), 0.0, (99, 49, 100, 50)),
        ((200, 100), (1000, 1000, 1000, 1000), 0.5, (199, 99, 200, 100)),
        ((200, 100), (0, 0, 0, 0), 0.0, (0, 0, 1, 1)),
    ],
)
def test_crop(size, box, margin, expected):
    assert span(crop_box(picture(*size), box, margin)) == expected


@pytest.mark.parametrize(
    ("box", "expected"), [((500, 500, 500, 500), (86, 36, 114, 64)), ((0, 0, 5, 5), (0, 0, 28, 28))]
)
def test_crop_grows_to_the_least_size(box, expected):
    assert span(crop_box(picture(200, 100), box, min_size=28)) == expected
    assert crop_box(picture(200, 10), box, min_size=28).size == (28, 10)


@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)), box=boxes, margin=st.floats(0, 3), least=st.integers(0, 70)
)
def test_crop_is_never_empty_and_covers_the_box(size, box, margin, least):
    crop = crop_box(picture(*size), box, margin, least)
    assert max(1, min(least, size[0])) <= crop.width <= size[0]
    assert max(1, min(least, size[1])) <= crop.height <= size[1]
    left, top, right, bottom = span(crop)
    assert left <= box[0] * size[0] / 1000 + 1e-6
    assert right >= box[2] * size[0] / 1000 - 1e-6
    assert top <= box[1] * size[1] / 1000 + 1e-6
    assert bottom >= box[3] * size[1] / 1000 - 1e-6


@given(box=boxes, amount=st.floats(0, 1000), seed=st.integers())
def test_jitter(box, amount, seed):
    moved = jitter_box(box, random.Random(seed), amount)
    assert moved == jitter_box(box, random.Random(seed), amount)
    x1, y1, x2, y2 = moved
    assert 0 <= x1 < x2 <= 1000
    assert 0 <= y1 < y2 <= 1000
    assert all(abs(a - b) <= amount + 1 + 1e-9 for a, b in zip(moved, box, strict=True))


def test_jitter_moves_each_side_on_its_own():
    moved = jitter_box((300, 300, 700, 700), random.Random(0), 60)
    assert len({round(a - b, 6) for a, b in zip(moved, (300, 300, 700, 700), strict=True)}) == 4
    assert jitter_box((300, 300, 700, 700), random.Random(0), 0) == (300, 300, 700, 700)


def test_evidence_goes_between_thinking_and_rethink():
    tcot = build(Modality.IMAGE, "a star", "keep it", "red star", boxes=[(1, 2, 3, 4)])
    assert split_at_evidence(tcot) == (
        '<thinking>a star {"bbox_2d": [[1, 2, 3, 4]]}</thinking>',
        "<rethink>keep it</rethink><answer>red star</answer>",
    )
