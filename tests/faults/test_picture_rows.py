"""Rows whose pictures are behind links, or missing, through the commands of construction."""

import json
import os
from collections import Counter

import pytest
import yaml
from making import lines, run, source, vlm, write_mix
from PIL import Image

from embedrl.construction.filter import filter_pairs
from embedrl.construction.pictures import PictureCheck
from embedrl.construction.rows import PairWriter
from embedrl.construction.split import split
from embedrl.data.formats import JsonlSource
from embedrl.data.images import ImageFile
from embedrl.data.mix import MixRow
from embedrl.data.opened import OpenedImage
from embedrl.errors import DataError
from embedrl.tcot.store import content_hash
from embedrl.types import Modality, Pair, Side

IMAGE_TCOT = '<thinking>a dot {"bbox_2d": [[100, 100, 900, 900]]}</thinking><rethink>dot</rethink><answer>red</answer>'
VIDEO_TCOT = '<thinking>it moves {"key_frames": [1]}</thinking><rethink>r</rethink><answer>moves</answer>'
TEXT_TCOT = '<thinking>a {"text_keywords": ["dot"]}</thinking><rethink>the dot</rethink><answer>dot</answer>'


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pair(name, query):
    return {"id": name, "query": query, "target": {"text": f"dot {name}", "tcot": TEXT_TCOT}}


def own_mix(folder, path, **options):
    return write_mix(
        folder / "mix.yaml",
        [source("embedrl.data.JsonlSource", path=str(path), cache_dir=str(folder / "cache"), **options)],
    )


@pytest.fixture
def snapshot(tmp_path):
    """A snapshot of the Hub's cache: its files are links to `blobs`; it is itself reached by a link."""
    blobs, real = tmp_path / "hub/blobs", tmp_path / "hub/snapshots/0f3a"
    blobs.mkdir(parents=True)
    (real / "images").mkdir(parents=True)
    (real / "clip").mkdir()
    for place in ("images/a.png", "images/b.png", "clip/1.png", "clip/2.png"):
        blob = blobs / place.replace("/", "")
        Image.effect_noise((40, 30), 90).convert("RGB").save(blob, "png")
        (real / place).symlink_to(os.path.relpath(blob, (real / place).parent))
    (real / "images/again.png").symlink_to("a.png")
    names = ["images/a.png", "images/b.png", "images/again.png"]
    rows = [pair(name, {"images": [name], "tcot": IMAGE_TCOT}) for name in names]
    rows.append(pair("clip", {"frames": ["clip/1.png", "clip/2.png"], "tcot": VIDEO_TCOT}))
    write_rows(blobs / "rows", rows)
    (real / "pairs.jsonl").symlink_to("../../blobs/rows")
    (tmp_path / "data").symlink_to(real)
    return tmp_path / "data", rows


@pytest.mark.parametrize("command", ["filter", "split"])
def test_rows_behind_links_keep_their_own_paths(tmp_path, snapshot, command):
    folder, rows = snapshot
    words = ["--rl", json.dumps({"pairs": 2})] if command == "split" else []
    mix = own_mix(tmp_path, folder / "pairs.jsonl")
    assert run(command, "--mix", mix, "--out", tmp_path / "out", *words) == 0
    out = tmp_path / "out" / ("embedder" if command == "split" else "")
    for kept, row in zip(lines(out / "pairs.jsonl"), rows, strict=True):
        assert {key: kept["query"].get(key) for key in ("images", "frames")} == {
            key: row["query"].get(key) for key in ("images", "frames")
        }
    [written] = yaml.safe_load((out / "mix.yaml").read_text())
    assert written["source"]["init_args"]["root"] == str(folder)
    read = JsonlSource(**written["source"]["init_args"], cache_dir=str(tmp_path / "cache"))
    assert [read[i].query.key for i in range(4)] == [
        JsonlSource(str(folder / "pairs.jsonl"), cache_dir=str(tmp_path / "cache"))[i].query.key for i in range(4)
    ]
    assert all(source.load() for i in range(4) for source in (*read[i].query.images, *read[i].query.frames))


def test_a_relative_root_becomes_absolute_and_stays_a_link(tmp_path, snapshot, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = JsonlSource("data/pairs.jsonl", root="data/../0f3a", cache_dir="cache")
    writer = PairWriter(tmp_path / "out", "pairs", found, 1.0)
    for index in range(4):
        writer.write(found[index])
    assert writer.close()["source"]["init_args"]["root"] == str(tmp_path / "data/../0f3a")
    assert lines(tmp_path / "out/pairs.jsonl")[0]["query"]["images"] == ["images/a.png"]


class Elsewhere:
    name = "elsewhere"

    def __init__(self, root):
        self.root = root


def test_a_source_may_name_files_by_another_way_to_its_root(tmp_path, snapshot):
    folder, _ = snapshot
    writer = PairWriter(tmp_path / "out", "x", Elsewhere(folder), 1.0)
    real = folder.resolve() / "images/a.png"
    writer.write(Pair(Side(images=(ImageFile(str(real)),)), Side("a"), "x", "0"))
    with pytest.raises(DataError, match=r"z\.png does not lie below the data set's root"):
        writer.write(Pair(Side(images=(ImageFile(str(tmp_path / "z.png")),)), Side("a"), "x", "1"))
    writer.close()
    assert [row["query"]["images"] for row in lines(tmp_path / "out/x.jsonl")] == [["images/a.png"]]


@pytest.fixture
def holes(tmp_path):
    """Eight pairs: 4 pictures and one of two frames are missing, one picture is a FIFO, one is broken."""
    folder = tmp_path / "data"
    folder.mkdir()
    Image.effect_noise((40, 30), 90).convert("RGB").save(folder / "good.png")
    (folder / "bad.png").write_bytes((folder / "good.png").read_bytes()[:200])
    os.mkfifo(folder / "pipe.png")
    names = [f"gone{i}.png" for i in range(4)]
    rows = [pair(name, {"images": [name], "tcot": IMAGE_TCOT}) for name in ("good.png", *names, "bad.png", "pipe.png")]
    rows.append(pair("video", {"frames": ["good.png", "gone0.png"], "tcot": VIDEO_TCOT}))
    write_rows(folder / "pairs.jsonl", rows)
    return own_mix(tmp_path, folder / "pairs.jsonl"), folder


def test_stats_count_and_name_missing_files(holes, capsys):
    mix, _ = holes
    assert run("data", "stats", "--mix", mix) == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "missing_file 5" in out
    assert "broken_picture 1" in out  # the FIFO
    assert "pairs/gone0.png: picture " in out
    assert "gone0.png does not exist" in out
    assert "pairs: 1 more like these" in out


def test_stats_that_are_asked_to_check_end_with_an_error(holes, tmp_path, capsys):
    mix, folder = holes
    bad = tmp_path / "bad" / "files.jsonl"
    assert run("data", "stats", "--mix", mix, "--check", "true", "--workers", 1, "--bad", bad) == 1
    told = capsys.readouterr()
    assert "missing_file 5" in " ".join(told.out.replace("│", " ").split())
    assert "broken_picture 2" in " ".join(told.out.replace("│", " ").split())
    assert "7 of 8 pairs cannot be used, the first: pairs/gone0.png: picture " in told.err
    causes = Counter(row["cause"] for row in lines(bad))
    assert causes == {"missing_file": 5, "broken_picture": 2}
    write_rows(folder / "pairs.jsonl", [pair("good.png", {"images": ["good.png"]})])
    assert run("data", "stats", "--mix", mix, "--check", "true") == 0


def test_filter_leaves_out_pairs_whose_pictures_or_frames_are_missing(holes, tmp_path, capsys):
    mix, _ = holes
    assert run("filter", "--mix", mix, "--out", tmp_path / "out", "--on_bad", "skip") == 0
    assert [row["id"] for row in lines(tmp_path / "out/pairs.jsonl")] == ["good.png"]
    assert json.loads((tmp_path / "out/report.json").read_text())["pairs"]["left_out"] == {
        "missing_file": 5,
        "broken_picture": 2,
    }


def test_each_picture_is_looked_at_once(monkeypatch, holes):
    looked = []
    monkeypatch.setattr(ImageFile, "check", lambda self: looked.append(self.path))
    side = Side(images=(ImageFile("a"), ImageFile("a"), OpenedImage("in memory", Image.new("RGB", (1, 1)))))
    check = PictureCheck()
    assert [check(Pair(side, side, "x", "0", (side,))) for _ in range(2)] == [("", "")] * 2
    assert looked == ["a"]


@pytest.mark.parametrize(
    ("name", "message"), [("pipe.png", "a FIFO"), ("no.png", "No such file"), ("a\0", "null byte")]
)
def test_the_hash_of_a_picture_waits_for_nothing(holes, name, message):
    _, folder = holes
    with pytest.raises(DataError, match=message):
        content_hash(Side(images=(ImageFile(f"{folder}/{name}"),)))


class Stamps:
    """A source without a root: its pictures are copied, so that they are read when a pair is written."""

    name = "stamps"
    modality = Modality.IMAGE

    def __init__(self, folder: str):
        self.folder = folder

    def __len__(self):
        return 2

    def __getitem__(self, index):
        picture = ImageFile(f"{self.folder}/{('good', 'bad')[index]}.png")
        return Pair(Side("x", (picture,), tcot=IMAGE_TCOT), Side(f"dot {index}", tcot=TEXT_TCOT), "stamps", str(index))


def test_a_picture_that_cannot_be_copied_is_skipped_or_named(holes, tmp_path, capsys):
    _, folder = holes
    words = {"out": tmp_path / "out", "checks": ["format"]}
    filter_pairs([MixRow(Stamps(str(folder)))], on_bad="skip", **words)
    assert [row["id"] for row in lines(tmp_path / "out/stamps.jsonl")] == ["0"]
    assert json.loads((tmp_path / "out/report.json").read_text())["stamps"]["left_out"] == {"broken_picture": 1}
    [left] = lines(tmp_path / "out/left_out.jsonl")
    assert (left["id"], left["cause"]) == ("1", "broken_picture")
    for call in (
        lambda: filter_pairs([MixRow(Stamps(str(folder)))], **words),
        lambda: split([MixRow(Stamps(str(folder)))], tmp_path / "drawn", {"stamps": 1}),
    ):
        with pytest.raises(DataError, match=r"stamps/1: cannot decode picture .*bad\.png"):
            call()


@pytest.mark.parametrize("command", ["filter", "annotate", "split"])
@pytest.mark.parametrize("place", ["a file", "a link", "behind a link"])
def test_no_step_writes_over_its_input(tmp_path, holes, capsys, command, place):
    _, folder = holes
    out = tmp_path / "out"
    data = out / "embedder" if command == "split" else out
    data.mkdir(parents=True)
    rows = data / "pairs.jsonl"
    if place == "a link":
        rows.symlink_to(folder / "pairs.jsonl")
    else:
        rows.write_text((folder / "pairs.jsonl").read_text())
    if place == "behind a link":
        (tmp_path / "other.jsonl").symlink_to(rows)
    mix = own_mix(tmp_path, tmp_path / "other.jsonl" if place == "behind a link" else rows, root=str(folder))
    before = rows.read_text()
    words = {"split": ["--rl", '{"pairs": 1}'], "annotate": vlm("http://127.0.0.1:9/v1"), "filter": []}[command]
    assert run(command, "--mix", mix, "--out", out, *words) == 2
    assert "of --mix lies there: give another folder" in capsys.readouterr().err
    assert rows.read_text() == before
    assert rows.is_symlink() == (place == "a link")
    assert [path.name for path in data.iterdir()] == ["pairs.jsonl"]


REPORTS = [
    *("[]", "null", "[" * 10_000, "{"),
    *(
        '{"pairs": {"rows": " "}}',
        '{"pairs": {"annotated": null}}',
        '{"pairs": 1}',
        '{"pairs": {"left_out": 5}}',
        '{"pairs": {"left_out": {"a": "b"}}}',
    ),
]


@pytest.mark.parametrize("report", REPORTS)
def test_a_broken_report_of_an_earlier_step_is_told_before_any_work(tmp_path, holes, capsys, report):
    mix, folder = holes
    (folder / "report.json").write_text(report)
    assert run("filter", "--mix", mix, "--out", tmp_path / "out", "--on_bad", "skip") == 1
    assert f"{folder / 'report.json'}: not a report of construction (" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
