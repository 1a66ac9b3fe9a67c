"""Folders of pictures and videos: where their captions come from."""

import pytest
from captioned import pictures, table

from embedrl.errors import DataError
from embedrl.pairs import from_folder, from_videos
from embedrl.types import Modality


def read(pairs):
    return {item.media.name: item.text for item in pairs.items}


def test_captions_come_from_the_table_else_from_text_files_else_from_names(tmp_path):
    rows = pictures(tmp_path / "cards", 3)
    (tmp_path / "cards/more").mkdir()
    (tmp_path / "cards/red.png").rename(tmp_path / "cards/more/Dark_red-02.png")
    assert read(from_folder(tmp_path / "cards"))["more/Dark_red-02.png"] == "Dark red"
    for name in ("blue", "green", "more/Dark_red-02"):
        (tmp_path / f"cards/{name}.txt").write_text(f"\ufeff\nthe {name} one\nde.utf8=...\n")
    assert read(from_folder(tmp_path / "cards"))["blue.png"] == "the blue one"
    assert read(from_folder(tmp_path / "cards", captions="names"))["blue.png"] == "blue"
    table(tmp_path / "cards/captions.csv", rows[1:])
    pairs = from_folder(tmp_path / "cards")
    assert read(pairs) == {"green.png": "a green card", "blue.png": "a blue card"}
    assert pairs.name == "cards"
    assert pairs.origin == "captions.csv (columns file and caption)"
    table(tmp_path / "cards/more.tsv", [])
    with pytest.raises(DataError, match=r"several tables, captions.csv, more.tsv: give --captions"):
        from_folder(tmp_path / "cards")


def test_a_picture_without_a_text_file(tmp_path):
    pictures(tmp_path, 3)
    (tmp_path / "red.txt").write_text("red")
    (tmp_path / "blue.txt").write_bytes(b"x\n\xff")
    with pytest.raises(DataError, match=r"blue.txt: line 2 is not UTF-8"):
        from_folder(tmp_path)
    pairs = from_folder(tmp_path, on_bad="skip")
    assert read(pairs) == {"red.png": "red"}
    assert sorted(sample.cause for sample in pairs.left_out) == ["empty_caption", "encoding"]
    assert "there is no green.txt beside it" in " ".join(sample.message for sample in pairs.left_out)


def test_videos(tmp_path):
    (tmp_path / "A_red_fox.MP4").write_bytes(b"a")
    (tmp_path / "bird.webm").write_bytes(b"b")
    pairs = from_videos(tmp_path)
    assert read(pairs) == {"A_red_fox.MP4": "A red fox", "bird.webm": "bird"}
    assert pairs.modality is Modality.VIDEO
    with pytest.raises(DataError, match="holds no pictures"):
        from_folder(tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        from_videos(tmp_path / "gone")
