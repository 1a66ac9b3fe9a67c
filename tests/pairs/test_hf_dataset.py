"""Folders of the `datasets` library."""

import datasets
import pytest
from captioned import pictures, png

from embedrl.errors import DataError
from embedrl.pairs import from_dataset


def saved(folder, **columns):
    datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image()).save_to_disk(folder)


def test_pictures_in_the_table(tmp_path):
    held = [{"bytes": png(colour), "path": None} for colour in ("red", "blue")]
    saved(tmp_path / "set", image=held, caption=["red", "x"], n=[1, 2])
    pairs = from_dataset(tmp_path / "set", id="n")
    assert [(item.id, item.text) for item in pairs.items] == [("1", "red"), ("2", "x")]
    assert pairs[1].target.images[0].load().getpixel((0, 0)) == (0, 0, 255)
    out = pairs.write(tmp_path / "mix")
    assert len(list((out / "pictures").iterdir())) == 2


def test_paths_splits_and_lists_of_captions(tmp_path):
    pictures(tmp_path / "set", 2)
    table = datasets.Dataset.from_dict({"file": ["red.png", "green.png"], "caption": [["a", "b"], ["c"]]})
    datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(tmp_path / "set")
    assert [item.text for item in from_dataset(tmp_path / "set").items] == ["a", "b", "c"]
    assert [item.text for item in from_dataset(tmp_path / "set", split="test").items] == ["a", "b"]
    with pytest.raises(DataError, match="has no split 'val', but train, test: give one as --split"):
        from_dataset(tmp_path / "set", split="val")


def test_what_is_wrong(tmp_path):
    (tmp_path / "no").mkdir()
    with pytest.raises(DataError, match="no data set of `save_to_disk`"):
        from_dataset(tmp_path / "no")
    held = [{"bytes": png("red"), "path": None}, {"bytes": b"x", "path": None}, None]
    saved(tmp_path / "set", image=held, caption=["a", "b", "c"])
    outside = [{"bytes": None, "path": "/etc/hostname.png"}, {"bytes": png("red"), "path": None}]
    datasets.Dataset.from_dict({"image": outside, "caption": ["a", "b"]}).save_to_disk(tmp_path / "outside")
    pairs = from_dataset(tmp_path / "outside", on_bad="skip")
    assert "row 1: path '/etc/hostname.png' leaves the root folder" in pairs.left_out[0].message
    with pytest.raises(DataError, match="has no column 'title': it has 'image', 'caption'; give one of them as --text"):
        from_dataset(tmp_path / "set", text="title")
    pairs = from_dataset(tmp_path / "set", on_bad="skip")
    assert len(pairs) == 1
    assert [sample.cause for sample in pairs.left_out] == ["broken_picture", "missing_file"]
    assert "row 2: image is no picture" in pairs.left_out[0].message
