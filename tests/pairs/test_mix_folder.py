"""The folder that training takes: whole or not there, both directions, nothing leaked, nothing replaced."""

import json

import pytest
import yaml
from captioned import pictures, table
from PIL import Image

from embedrl.data import JsonlSource, PairTasks
from embedrl.errors import ConfigError, DataError
from embedrl.pairs import from_csv, from_folder, from_videos, mix_folder


@pytest.fixture
def cards(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = pictures(tmp_path / "cards")
    return from_csv(table(tmp_path / "cards/t.csv", [*rows, ("red.png", "scarlet")]), name="cards")


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sources(path):
    return [JsonlSource(**row["source"]["init_args"]) for row in yaml.safe_load(path.read_text())]


@pytest.mark.parametrize("copy", [False, True])
def test_what_is_written_is_what_was_read(cards, copy, tmp_path):
    halves = cards.split(validation=0.25)
    out = halves.write(tmp_path / "mix", copy=copy)
    assert set(tree(out)) >= {"train.jsonl", "validation.jsonl", "mix.yaml", "validation.yaml", "contact_sheet.png"}
    assert (out / "pictures").exists() is copy
    there, back = sources(out / "mix.yaml")
    assert (there.name, back.name, len(there), len(back)) == ("cards_t2i", "cards_i2t", 10, 10)
    for index, item in enumerate(halves.train.items):
        assert (there[index].id, there[index].query.text) == (item.id, item.text)
        colour = there[index].target.images[0].load().getpixel((0, 0))
        assert colour == cards[cards.items.index(item)].target.images[0].load().getpixel((0, 0))
        assert (back[index].query, back[index].target) == (there[index].target, there[index].query)
    (row,) = yaml.safe_load((out / "validation.yaml").read_text())
    tasks = PairTasks(JsonlSource(**row["init_args"]["source"]["init_args"])).tasks()
    assert [(task.name, len(task.queries)) for task in tasks] == [("cards_t2i", 3), ("cards_i2t", 3)]
    with Image.open(out / "contact_sheet.png") as sheet:
        assert len(sheet.getcolors(1 << 20)) > 10


def test_a_second_run_is_equal_or_refused(cards, tmp_path):
    out = cards.split().write(tmp_path / "mix")
    before = tree(out)
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    cards.split().write(out)
    assert times == {path: path.stat().st_mtime_ns for path in out.iterdir()}
    with pytest.raises(ConfigError, match="holds another import: give a new folder, or delete that one"):
        cards.split(seed=5).write(out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="holds something else: give a new folder"):
        cards.write(tmp_path / "other")
    assert tree(out) == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["cards", "mix", "other"]


def test_nothing_is_left_of_a_run_that_fails(cards, tmp_path, monkeypatch):
    (tmp_path / "cards/blue.png").unlink()
    with pytest.raises(DataError, match=r"blue.png is gone since it was read"):
        cards.write(tmp_path / "mix", copy=True)
    assert not (tmp_path / "mix").exists()
    assert not list(tmp_path.glob("mix*"))


def test_one_direction_without_validation(cards, tmp_path):
    out = cards.write(tmp_path / "mix", both_directions=False)
    assert [source.name for source in sources(out / "mix.yaml")] == ["cards_t2i"]
    assert not {"validation.yaml", "validation.jsonl"} & set(tree(out))


def test_bad_pictures_are_shown_on_the_sheet_and_rows_left_out_are_named(tmp_path):
    pictures(tmp_path / "cards", 3)
    (tmp_path / "cards/red.png").write_bytes(b"broken")
    table(tmp_path / "cards/t.csv", [("red.png", "x"), ("blue.png", "y"), ("gone.png", "z")])
    out = from_folder(tmp_path / "cards", on_bad="skip").write(tmp_path / "mix")
    (line,) = (out / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["cause"] == "missing_file"
    with Image.open(out / "contact_sheet.png") as sheet:
        reds = [c for n, c in sheet.convert("RGB").getcolors(1 << 20) if c == (198, 40, 40)]
    assert reds  # the error's ink


def test_videos_are_named_as_one_file(tmp_path):
    (tmp_path / "v").mkdir()
    (tmp_path / "v/a_fox.mp4").write_bytes(b"a")
    out = from_videos(tmp_path / "v").write(tmp_path / "mix")
    assert json.loads((out / "train.jsonl").read_text())["target"] == {"frames": ["a_fox.mp4"]}
    assert "v_t2v" in (out / "mix.yaml").read_text()


def test_too_few(cards, tmp_path):
    empty = cards.split().train
    with pytest.raises(DataError, match="cards has no pairs to train on"):
        mix_folder.write_mix_folder(type(cards.split())(type(empty)("cards", ()), empty), tmp_path / "mix", False, True)
