"""Pictures of odd sizes on their way into a model: no frame, crop or strip ends a run or fills the memory."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from qwen_helpers import EMB, picture, user
from torchvision.transforms.v2 import functional as tvf

from embedrl.data.images import MAX_RATIO
from embedrl.data.opened import OpenedImage
from embedrl.data.render import RenderOptions, render
from embedrl.errors import DataError
from embedrl.models.open_clip.inputs import OpenClipPreprocessor
from embedrl.models.qwen_vl.preprocess import PixelBudget, QwenVLPreprocessor
from embedrl.models.qwen_vl.tiny import build_processor, build_tokenizer
from embedrl.tcot.evidence import crop_box
from embedrl.types import Side


@pytest.fixture(scope="module")
def qwen():
    processor = build_processor(build_tokenizer(["a"]))
    budget = PixelBudget(16 * 16, 64 * 64)
    return QwenVLPreprocessor(processor, budget, budget, budget, max_length=4096)


def film(*frames):
    return [user({"type": "video", "video": list(frames), "fps": 2.0}), EMB]


def test_frames_of_different_sizes_take_the_size_of_the_first(qwen):
    first, second, third = picture(0, (64, 48)), picture(1, (48, 64)), picture(2, (100, 20))
    made = qwen([film(first, second, third)])
    height, width = tvf.pil_to_tensor(qwen.as_read(film(first))[0]["content"][0]["video"][0]).shape[-2:]
    options = {"interpolation": tvf.InterpolationMode.BICUBIC, "antialias": True}
    resized = [
        tvf.to_pil_image(tvf.resize(tvf.pil_to_tensor(frame), [height, width], **options))
        for frame in (first, second, third)
    ]
    again, read = qwen([film(*resized)]), qwen([qwen.as_read(film(first, second, third))])
    for name, values in made.items():
        assert torch.equal(values, again[name]), name
        assert torch.equal(values, read[name]), name
    assert {frame.size for frame in resized} == {(width, height)}


def test_frames_of_one_size_are_prepared_as_pictures_of_that_size_are(qwen):
    frames = [picture(seed, (64, 48)) for seed in range(4)]
    stacked = qwen._frames(frames)
    assert torch.equal(stacked, torch.stack([qwen._pixels(frame, qwen.frames) for frame in frames]))


def test_a_side_with_such_a_video_is_rendered_and_prepared(qwen):
    frames = tuple(OpenedImage(str(size), picture(0, size)) for size in ((64, 48), (48, 64)))
    chat = render(Side("what happens", frames=frames), RenderOptions(tcot="none"))
    assert qwen.length(chat) > 0
    assert qwen([chat])["video_grid_thw"].shape == (1, 3)


def open_clip(seen):
    def transform(image):
        seen.append(image.size)
        return torch.zeros(3, 8, 8)

    return OpenClipPreprocessor(lambda texts: torch.zeros(len(texts), 4, dtype=torch.long), transform, 4, (8, 8))


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (201, 1)])
@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_strip_is_refused_before_it_is_resized(size, kind, qwen):
    strip = Image.new("RGB", size)
    chat = [user({"type": kind, kind: strip if kind == "image" else [strip], "fps": 2.0}), EMB]
    seen = []
    with pytest.raises(DataError, match=f"{size[0]} x {size[1]} pixels, one side more than 200 times the other"):
        open_clip(seen)([chat])
    assert not seen
    with pytest.raises(DataError, match="aspect ratio"):
        qwen([chat])


def test_the_longest_strip_that_is_read_can_be_prepared(qwen):
    chat = [user({"type": "image", "image": Image.new("RGB", (1, MAX_RATIO))}), EMB]
    qwen([chat])
    seen = []
    open_clip(seen)([chat])
    assert seen == [(1, MAX_RATIO)]


@given(
    short=st.integers(1, 300),
    ratio=st.floats(1, MAX_RATIO),
    upright=st.booleans(),
    seed=st.integers(0, 2**32),
    margin=st.sampled_from([0.0, 0.1, 3.0]),
)
def test_no_crop_is_longer_than_a_picture_may_be(short, ratio, upright, seed, margin):
    size = (short, int(short * ratio)) if upright else (int(short * ratio), short)
    rng = random.Random(seed)
    box = tuple(rng.choice([0, 1000, 500, 500.01, rng.uniform(0, 1000)]) for _ in range(4))
    x1, y1, x2, y2 = box
    box = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    crop = crop_box(Image.new("1", size), box, margin, min_size=8, max_ratio=MAX_RATIO)
    assert max(crop.size) <= MAX_RATIO * min(crop.size)
    loose = crop_box(Image.new("1", size), box, margin, min_size=8)
    assert crop.size[0] >= loose.size[0]
    assert crop.size[1] >= loose.size[1]
    if max(loose.size) <= MAX_RATIO * min(loose.size):
        assert crop.size == loose.size


def test_a_thin_cue_makes_a_crop_that_models_can_read(qwen):
    tcot = '<thinking>a line {"bbox_2d": [[20, 500, 980, 501]]}</thinking><rethink>r</rethink><answer>a</answer>'
    side = Side("x", images=(OpenedImage("page", Image.new("RGB", (1700, 2200))),), tcot=tcot)
    [crop] = [part["image"] for part in render(side, RenderOptions())[0]["content"] if part.get("evidence")]
    assert crop.size == (1700, 9)
    qwen([[user({"type": "image", "image": crop}), EMB]])
