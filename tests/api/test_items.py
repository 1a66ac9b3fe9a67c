"""What a program gives, read as sides: valid and invalid items."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedrl.api.items import is_one, to_side
from embedrl.errors import DataError
from embedrl.types import Side

RED, CLEAR = Image.new("RGB", (40, 30), "red"), Image.new("RGBA", (40, 30), (255, 0, 0, 0))
ARRAY = np.asarray(RED)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RED.save("red.png")
    Path("frames").mkdir()
    for i in range(3):
        Image.new("RGB", (40, 30), (i, 0, 0)).save(f"frames/frame_{i}.png")
    Path("notes.md").write_text("x")


# name: item, text, pictures, frames, T-CoT
VALID = {
    "text": ("a red star", "a red star", 0, 0, ""),
    "a text of several lines that ends like a file": ("see\nred.png", "see\nred.png", 0, 0, ""),
    "the name of a picture": ("red.png", "", 1, 0, ""),
    "a path": (Path("red.png"), "", 1, 0, ""),
    "a folder of frames": (Path("frames"), "", 0, 8, ""),
    "Pillow": (CLEAR, "", 1, 0, ""),
    "array": (ARRAY, "", 1, 0, ""),
    "array of frames": (np.stack([ARRAY, ARRAY]), "", 0, 2, ""),
    "a text by name": ({"text": "no/such.png"}, "no/such.png", 0, 0, ""),
    "text and picture": ({"text": "star", "image": RED}, "star", 1, 0, ""),
    "pictures": ({"images": ["red.png", RED, ARRAY]}, "", 3, 0, ""),
    "page": ({"page": "red.png"}, "", 1, 0, ""),
    "frames": ({"video": [RED, "red.png"], "fps": 1}, "", 0, 2, ""),
    "video folder": ({"video": "frames", "text": "what?"}, "what?", 0, 8, ""),
    "T-CoT": ({"text": "star", "tcot": "<answer>x</answer>"}, "star", 0, 0, "<answer>x</answer>"),
    "absent parts": ({"text": "star", "image": None}, "star", 0, 0, ""),
    "side": (Side("star"), "star", 0, 0, ""),
}


@pytest.mark.parametrize("name", VALID)
def test_an_item_becomes_a_side(name):
    item, text, pictures, frames, tcot = VALID[name]
    side = to_side(item)
    assert (side.text, len(side.images), len(side.frames), side.tcot) == (text, pictures, frames, tcot)
    assert all(picture.load().size == (40, 30) for picture in (*side.images, *side.frames))
    assert is_one(item)


INVALID = {
    "a missing file": ("no/such.png", r"'no/such.png' ends like a file, and there is none .* give \{'text': ...\}"),
    "an address": ("https://example.org/a.jpg", "ends like a file, and there is none"),
    "a missing video": ("clip.mp4", "ends like a file, and there is none"),
    "a missing path": (Path("no/such"), "no/such: no such file or folder"),
    "a path to a text": (Path("notes.md"), "notes.md: neither a picture nor a video"),
    "number": (3, "an item of type int"),
    "nothing": (None, "an item of type NoneType"),
    "unknown key": ({"txt": "star"}, "the key 'txt': did you mean 'text'"),
    "unlike any key": ({"sound": 1}, "the key 'sound': give any of text, image"),
    "empty": ({}, "an empty item"),
    "blank": (" ", "an empty item"),
    "text of another type": ({"text": 3}, "'text' is of type int"),
    "both": ({"image": RED, "images": [RED]}, "both 'image' and 'images'"),
    "fps": ({"video": [RED], "fps": 0}, "'fps' is 0"),
    "no frames": ({"video": []}, "a video without frames"),
    "video of another type": ({"video": 3}, "a video of type int"),
    "floats": (np.zeros((8, 8, 3)), "pixels of float64"),
    "narrow": (Image.new("RGB", (1, 300)), "one side more than 200 times"),
    "PDF without a page": ({"page": "paper.pdf"}, r"several pages: give \{'page': \('paper.pdf', 1\)\}"),
}


@pytest.mark.parametrize("name", INVALID)
def test_any_other_is_one_line(name):
    item, message = INVALID[name]
    with pytest.raises(DataError, match=message) as error:
        to_side(item)
    assert "\n" not in str(error.value)


def test_pictures_in_memory_are_told_apart_by_their_pixels():
    blue = Image.new("RGB", (40, 30), "blue")
    keys = [to_side(picture).key for picture in (RED, RED.copy(), ARRAY, blue)]
    assert keys[0] == keys[1] == keys[2] != keys[3]


def test_several_items_are_no_item():
    assert not any(map(is_one, (["a"], ("a", "b"), iter(["a"]))))
