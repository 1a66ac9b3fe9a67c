import hashlib
import random
import time

import numpy as np
import pytest
from PIL import Image

from embedrl.data.world.draw import draw_picture
from embedrl.data.world.image import WorldImage
from embedrl.data.world.page import draw_page, labels, make_page
from embedrl.data.world.scene import (
    CORNER_CELLS,
    FRAME_SIZE,
    MARKS,
    SCENE_SIZE,
    close_up,
    make_picture,
    random_scene,
)
from embedrl.data.world.vocabulary import SHAPES
from embedrl.tcot.evidence import crop_box
from embedrl.types import ImageSource, Side

BICUBIC = Image.Resampling.BICUBIC


def pixels(image):
    return np.asarray(image, dtype=np.float32)


def a_page(seed):
    rng = random.Random(seed)
    return make_page(rng, rng.sample(labels("train"), 3), rng.randrange(3))


def test_same_name_same_pixels_and_a_pinned_digest():
    specs = [random_scene(random.Random(1)), close_up(random.Random(2), 3, 4, 5), a_page(3)]
    images = [WorldImage(spec) for spec in specs]
    assert all(isinstance(image, ImageSource) for image in images)
    assert len({image.name for image in images}) == 3
    assert [(i.load().mode, i.load().size) for i in images] == [
        ("RGB", (144, 144)),
        ("RGB", (48, 48)),
        ("RGB", (144, 144)),
    ]
    for image in images:
        assert image.load().tobytes() == WorldImage(image.spec).load().tobytes()
    assert Side(images=tuple(images)).key == Side(images=tuple(WorldImage(s) for s in specs)).key


def test_the_world_does_not_depend_on_the_machine():
    """Pinned: specifications to the letter, pixels to a fraction of a grey level."""
    specs = [random_scene(random.Random(1)), a_page(3)]
    digest = hashlib.sha256("".join(WorldImage(s).name for s in specs).encode()).hexdigest()[:12]
    assert digest == "16457a806fc5"
    means = [pixels(WorldImage(s).load()).mean((0, 1)) for s in specs]
    np.testing.assert_allclose(means, MEANS, atol=0.02)


MEANS = [[207.55, 209.49, 218.81], [195.75, 213.39, 216.31]]


@pytest.mark.parametrize("size", [SCENE_SIZE, FRAME_SIZE])
@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_boxes_fit_the_pixels_of_their_object(shape, size):
    """What an object changes lies inside its box and touches all four of its sides."""
    for seed in range(5):
        rng = random.Random(seed)
        columns = 3 if size == SCENE_SIZE else 2
        cell = rng.choice(CORNER_CELLS)
        picture = make_picture(rng, [(rng.randrange(8), shape, cell, 0)], size, columns)
        empty = type(picture)(picture.size, picture.background, picture.grain, ())
        changed = np.abs(pixels(draw_picture(picture)) - pixels(draw_picture(empty))).max(-1) > 4
        rows, columns_ = np.nonzero(changed.any(1))[0], np.nonzero(changed.any(0))[0]
        x1, y1, x2, y2 = (edge * size / 1000 for edge in picture.box(picture.things[0]))
        assert x1 <= columns_[0] <= x1 + 2
        assert x2 - 2 <= columns_[-1] + 1 <= x2
        assert y1 <= rows[0] <= y1 + 3
        assert y2 - 2 <= rows[-1] + 1 <= y2


def contrast(images):
    """Root mean square difference between pictures, over pairs of neighbours, in grey levels."""
    stack = np.stack([pixels(image) for image in images])
    return float(np.sqrt(((stack[1:] - stack[:-1]) ** 2).mean()))


@pytest.mark.parametrize(("size", "shown"), [(SCENE_SIZE, 48), (FRAME_SIZE, 32)])
def test_marks_vanish_in_the_input_and_show_in_evidence(size, shown):
    for seed in range(4):
        rng = random.Random(seed)
        columns = 3 if size == SCENE_SIZE else 2
        base = make_picture(rng, [(rng.randrange(8), 1, rng.choice(CORNER_CELLS), 0)], size, columns)
        thing = base.things[0]
        views = []
        for mark in range(MARKS):
            marked = type(thing)(thing.color, thing.shape, thing.cell, mark, thing.x, thing.y, thing.size)
            views.append(draw_picture(type(base)(size, base.background, base.grain, (marked,))))
        corners = tuple(edge * shown // size for edge in thing.pixel_box)
        inputs = [view.resize((shown, shown), BICUBIC).crop(corners) for view in views]
        crops = [crop_box(view, base.box(thing), margin=0.1) for view in views]
        evidence = [crop.resize((48, 48), BICUBIC) for crop in crops] if size == SCENE_SIZE else crops
        assert contrast(inputs) < 4
        assert contrast(evidence) > 20


def test_numbers_vanish_in_the_input_and_show_in_a_crop_of_their_row():
    page = a_page(0)
    views = []
    for number in range(10, 100):
        rows = [type(r)(r.word, number, r.x, r.y) for r in page.rows]
        views.append(draw_page(type(page)(tuple(rows), page.highlighted, page.paper, page.tint, page.grain)))
    row = page.rows[page.highlighted]
    plate = (row.x / 3, page.highlighted * 16 + row.y / 3, row.x / 3 + 12, page.highlighted * 16 + row.y / 3 + 10)
    inputs = [view.resize((48, 48), BICUBIC).crop(tuple(map(round, plate))) for view in views]
    crops = [crop_box(view, page.box(page.highlighted), margin=0.1).resize((96, 32), BICUBIC) for view in views]
    assert contrast(inputs) < 4
    assert contrast([crop.crop((58, 4, 88, 28)) for crop in crops]) > 8


def test_words_show_in_the_input():
    page = a_page(0)
    inputs = []
    for word in range(12):
        rows = [type(r)(word, r.number, r.x, r.y) for r in page.rows]
        same = type(page)(tuple(rows), page.highlighted, page.paper, page.tint, page.grain)
        inputs.append(draw_page(same).resize((48, 48), BICUBIC).crop((3, 0, 31, 16)))
    assert contrast(inputs) > 20


def test_only_one_row_is_tinted():
    for seed in range(10):
        page = a_page(seed)
        bands = [pixels(draw_page(page))[row * 48 + 6 : row * 48 + 42, 9:11].mean((0, 1)) for row in range(3)]
        saturation = [band.max() - band.min() for band in bands]
        assert int(np.argmax(saturation)) == page.highlighted
        assert sorted(saturation)[1] < 30 < max(saturation)


@pytest.mark.parametrize("make", [lambda seed: random_scene(random.Random(seed)), a_page])
def test_drawing_is_fast(make):
    images = [WorldImage(make(seed)) for seed in range(40)]
    best = float("inf")
    for _ in range(6):
        start = time.process_time()
        for image in images:
            image.load()
        best = min(best, (time.process_time() - start) / len(images))
    assert best < 3e-3
