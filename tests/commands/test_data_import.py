"""`embedrl data import`: what it takes for what, and that the command it prints trains."""

import json
import shlex

import pytest
from captioned import COLOURS, pictures, png, shard, table
from cli_process import logged

from embedrl.cli import main
from embedrl.commands.data_import import kind_of


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


@pytest.mark.slow
def test_a_folder_and_a_table_train_by_the_printed_command(here, capsys):
    rows = pictures(here / "my cards")
    table(here / "captions.tsv", [(f"{name}\t{text}",) for name, text in rows], "picture\tsays")
    words = ["data", "import", "my cards", "--captions", "captions.tsv", "--image", "picture", "--text", "says"]
    assert main([*words, "--out", "my mix", "--validation", "0.25"]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "my cards: 12 pairs, captions from captions.tsv (columns picture and says)" in out
    assert "text → image 9" in " ".join(out.split())
    command = shlex.split(out.rpartition("Next: ")[2])
    assert command == [
        *("embedrl", "fit", "--config", "configs/own_data.yaml", "--data.mix", "my mix/mix.yaml"),
        *("--data.val", "my mix/validation.yaml", "--data.batch_size", "8", "--data.sub_batch_size", "8"),
    ]
    short = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.log_every_n_steps", "1"]
    assert main([*command[1:], *short]) == 0, capsys.readouterr().err
    assert len(logged(here / "runs/own_data/version_0", "train/loss")) == 2
    for name in ("val/my cards_t2i/hit@10", "val/my cards_i2t/hit@10", "val/hit@10"):
        assert logged(here / "runs/own_data/version_0", name).popitem()[1] == [1.0]  # of three candidates


SOURCES = {
    "folder": (["cards"], "the files' names"),
    "table": (["cards.csv"], "cards.csv (columns file and caption)"),
    "shard": (["x.tar"], "x.tar"),
    "shards": (["shards"], "2 shards"),
    "names": (["cards", "--captions", "names"], "the files' names"),
}


@pytest.mark.parametrize("case", SOURCES)
def test_the_suffix_decides(case, here, capsys):
    words, origin = SOURCES[case]
    rows = pictures(here / "cards")
    table(here / "cards.csv", [(f"cards/{name}", text) for name, text in rows])
    members = {f"{c}.{kind}": png(c) if kind == "png" else c.encode() for c in COLOURS[:3] for kind in ("png", "txt")}
    (here / "shards").mkdir()
    for path in ("x.tar", "shards/0.tar", "shards/1.tar"):
        shard(here / path, members)
    assert main(["data", "import", *words]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert f"captions from {origin}" in out
    assert ("3 that repeat another are left out" in out) is (case == "shards")
    assert (here / "mix/mix.yaml").is_file()


def test_what_a_folder_holds(tmp_path):
    for name, kind in (("a.pdf", "pages"), ("a.mp4", "videos"), ("a.jpeg", "pictures"), ("a.tar", "webdataset")):
        folder = tmp_path / kind
        folder.mkdir()
        (folder / name).write_bytes(b"x")
        (folder / "captions.csv").write_text("x")
        assert kind_of(folder) == kind
    (tmp_path / "dataset_info.json").write_text("{}")
    assert kind_of(tmp_path) == "dataset"


WRONG = {
    "missing": (["gone"], 1, "gone does not exist: check the path"),
    "nothing": (["empty"], 1, "empty holds no pictures, videos, .pdf or .tar files"),
    "several": (["both"], 1, "both holds 2 files of pictures, 1 files of videos: say which to read by --kind"),
    "a picture": (["both/a.png"], 1, "both/a.png: give a folder, or a file that ends with .csv"),
    "captions of a table": (
        ["t.csv", "--captions", "u.csv"],
        2,
        "--captions u.csv: is of no use for a source of table",
    ),
    "columns of names": (["cards", "--captions", "names", "--text", "x"], 2, "--captions names: has no columns"),
    "columns of no table": (["cards", "--text", "x"], 2, "cards holds 0 tables: name the one with the captions"),
    "share": (["cards", "--validation", "2"], 2, "validation is 2.0: give a share from 0 to below 1"),
    "inside": (["cards", "--out", "cards/mix"], 2, "--out cards/mix: lies in cards, and would be read the next time"),
    "out": (["cards", "--out", "both"], 2, "--out both: holds something else: give a new folder"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_source_or_flag(case, here, capsys):
    words, code, message = WRONG[case]
    pictures(here / "cards", 3)
    pictures(here / "both", 1)
    (here / "both/a.png").write_bytes(png("red"))
    (here / "both/a.mp4").write_bytes(b"x")
    (here / "empty").mkdir()
    (here / "t.csv").write_text("file,caption\ncards/red.png,x\n")
    assert main(["data", "import", *words]) == code
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (here / "mix").exists()


def test_bad_rows_are_counted(here, capsys):
    rows = pictures(here / "cards")
    table(here / "cards/t.csv", [*rows, ("gone.png", "x"), ("red.png", "")])
    assert main(["data", "import", "cards"]) == 1
    assert "row 13 (line 14): cards/gone.png does not exist" in capsys.readouterr().err
    assert main(["data", "import", "cards", "--on_bad", "skip"]) == 0
    out = capsys.readouterr().out
    assert "2 bad ones are left out (missing_file 1, empty_caption 1): mix/skipped.jsonl names them" in out
    assert len([json.loads(line) for line in (here / "mix/skipped.jsonl").read_text().splitlines()]) == 2
