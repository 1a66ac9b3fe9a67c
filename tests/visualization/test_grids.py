"""The retrieval grid and the projector, drawn from results whose answer is known."""

import pytest
import torch
from PIL import Image, ImageDraw
from toy import Plain, count, result

from embedrl.tcot.parser import build
from embedrl.training.callbacks.projector import project
from embedrl.types import Modality, Side
from embedrl.visualization.drawing import GREEN, ORANGE, draw_text, pixels, thumbnail
from embedrl.visualization.grids import draw_grid


def test_the_right_candidate_is_framed_where_it_was_ranked():
    first, third = draw_grid(result(right=0), 1, 5), draw_grid(result(right=2), 1, 5)
    columns = []
    for grid in (first, third):
        greens = [x for x in range(grid.width) if grid.getpixel((x, grid.height - 60)) == GREEN]
        columns.append(min(greens))
    step = 196 + 12
    assert columns[1] - columns[0] == 2 * step
    assert first.size == third.size


def test_a_missed_answer_stands_behind_the_others():
    grid, usual = draw_grid(result(right=6), 1, 5), draw_grid(result(right=0), 1, 5)
    assert grid.width - usual.width == 196 + 12
    assert count(grid.crop((usual.width, 0, grid.width, grid.height)), GREEN) > 100
    assert count(grid.crop((0, 0, usual.width, grid.height)), GREEN) == 0


def test_a_box_is_drawn_where_the_cue_says():
    tcot = build(Modality.IMAGE, "look here", "so", "red", boxes=[(500, 0, 1000, 1000)]).render()
    side = Side(images=(Plain((9, 9, 9)),), tcot=tcot)
    shown = pixels(side, 200, 100)
    assert shown.size == (200, 100)
    assert count(shown.crop((0, 0, 98, 100)), ORANGE) == 0
    assert shown.getpixel((100, 50)) == ORANGE
    assert shown.getpixel((199, 50)) == ORANGE
    assert count(pixels(side, 200, 100, cues=False), ORANGE) == 0


def test_key_frames_are_marked():
    tcot = build(Modality.VIDEO, "look here", "so", "red", frames=[2]).render()
    side = Side(frames=tuple(Plain((9, 9, i), (32, 32)) for i in range(4)), tcot=tcot)
    strip = pixels(side, 100, 100)
    assert count(strip.crop((0, 0, strip.width // 2, strip.height)), ORANGE) == 0
    assert count(strip.crop((strip.width // 2, 0, strip.width, strip.height // 2)), ORANGE) > 50
    assert count(strip.crop((0, strip.height // 2, strip.width, strip.height)), ORANGE) == 0


@pytest.mark.parametrize("text", ["", "short", "word " * 300, "x" * 2000, "日本語 \x00 \u202e"])
def test_text_stays_in_its_area(text):
    image = Image.new("RGB", (200, 120), (255, 255, 255))
    below = draw_text(ImageDraw.Draw(image), text, (20, 20, 180, 100), 14, (0, 0, 0))
    assert 20 <= below <= 100
    inside = image.crop((18, 18, 184, 104))
    outside = Image.new("RGB", image.size, (255, 255, 255))
    outside.paste(inside, (18, 18))
    assert outside.tobytes() == image.tobytes()


def test_projector_rows_belong_to_their_vectors():
    scored = result(right=2)
    vectors, rows, sprites = project(scored, max_points=10, sprite_size=32)
    assert [row[:3] for row in rows] == [["toy", "query", "0"], ["toy", "candidate", "0"]]
    assert torch.equal(vectors[0], scored.queries[0])
    assert torch.equal(vectors[1], scored.candidates[2])
    assert sprites.shape == (2, 3, 32, 32)
    assert sprites.min() >= 0
    assert sprites.max() <= 1
    assert len(project(scored, max_points=1, sprite_size=32)[1]) == 2, "at least one pair"


def test_a_text_thumbnail_shows_words():
    assert count(thumbnail(Side(text="red"), 48), (255, 255, 255)) < 48 * 48
