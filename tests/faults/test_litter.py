"""What file managers leave behind is no data, wherever folders are listed; odd names are one line."""

import numpy as np
import pytest
from PIL import Image

from embedrl.data.datasets.openclipart import read_drawings
from embedrl.data.datasets.tux import read_stamps
from embedrl.data.video import list_frames
from embedrl.errors import DataError
from embedrl.evaluation.identity import _by_content
from embedrl.evaluation.readers.build import UnusableError
from embedrl.evaluation.readers.files import frames, picture, read_rows
from embedrl.evaluation.readers.read_task import missing_files
from embedrl.evaluation.table import load_table
from embedrl.utils.input_files import is_hidden, visible

NOISE = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
RGB = Image.fromarray(NOISE[..., :3].copy())
LITTER = ("._0001.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.jpg")
LITTER_FOLDERS = ("__MACOSX", "@eaDir", ".ipynb_checkpoints")


def littered(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        RGB.save(folder / name)
    for name in LITTER:
        (folder / name).write_bytes(b"\0\5\x16\7")
    for name in LITTER_FOLDERS:
        (folder / name).mkdir()
        (folder / name / "._1.png").write_bytes(b"\0\5\x16\7")
        RGB.save(folder / name / "2.png")


def test_what_file_managers_leave_behind_is_no_frame(tmp_path):
    littered(tmp_path / "frames", ["0002.png", "0010.png"])
    (tmp_path / "frames" / "3.png").mkdir()
    assert list_frames(tmp_path / "frames") == ["0002.png", "0010.png"]
    littered(tmp_path / "none", [])
    with pytest.raises(DataError, match="holds no pictures"):
        list_frames(tmp_path / "none")
    assert all(map(is_hidden, (*LITTER, *LITTER_FOLDERS)))
    assert not any(map(is_hidden, ("a.png", "macosx", "_1.png", "Thumbs.png", "eaDir")))


def test_no_other_listing_takes_it_for_data(tmp_path):
    for folder in ("rows", "stamps/animals", "png/food", "svg/food"):
        littered(tmp_path / folder, ["1.png"])
        (tmp_path / folder / "__MACOSX" / "2.txt").write_text("two")
        (tmp_path / folder / "1.txt").write_text("one")
        (tmp_path / folder / "1.svg").write_text("<dc:subject><rdf:li>pear</rdf:li></dc:subject>")
    (tmp_path / "rows" / "a.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "rows" / "._a.jsonl").write_bytes(b"\0\5\x16\7")
    assert [row.values for row in read_rows(tmp_path / "rows")] == [{"a": 1}]
    assert [stamp.id for stamp in read_stamps(tmp_path / "stamps")] == ["animals/1"]
    assert [drawing.id for drawing in read_drawings(tmp_path / "png", tmp_path / "svg", ["food"])] == ["food/1"]
    assert {path.name for path in visible(tmp_path / "rows")} == {"1.png", "1.txt", "1.svg", "a.jsonl"}


def test_a_folder_of_litter_alone_is_empty_and_changes_no_identity(tmp_path):
    row = load_table("mmeb_v2")[0]
    for name in row.paths.values():
        (tmp_path / name.split("|")[0].strip()).mkdir(parents=True, exist_ok=True)
    bare = missing_files(row, tmp_path)
    for path in [path for path in tmp_path.rglob("*") if path.is_dir()]:
        (path / ".DS_Store").touch()
    assert bare
    assert missing_files(row, tmp_path) == bare
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    before = _by_content(str(tmp_path / "model"))
    littered(tmp_path / "model", [])
    assert _by_content(str(tmp_path / "model")) == before


@pytest.mark.parametrize("name", ["a" * 300, "a/" + "b" * 300 + ".png", "no", "\ud800", "a\0"])
def test_names_that_no_folder_can_have_are_one_line(tmp_path, name):
    with pytest.raises(DataError, match="frame folder"):
        list_frames(tmp_path / name)
    (tmp_path / "pictures").mkdir()
    with pytest.raises(UnusableError) as caught:
        picture(tmp_path, "pictures", name)
    assert caught.value.cause == ("unreadable row" if "\0" in name else "missing picture")
    with pytest.raises(UnusableError):
        frames(tmp_path, "pictures", name)
