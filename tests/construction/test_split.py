"""`embedrl split`: sizes, distances, preferred pairs, and what trains on what."""

import json

import pytest
import yaml
from making import lines, run, world, write_mix
from PIL import Image

from embedrl.data.formats import JsonlSource
from embedrl.data.world.source import WorldSource


@pytest.fixture
def mix(tmp_path):
    rows = [world("vqa", 20, teacher="perfect"), world("t2i", 8, teacher="perfect")]
    return write_mix(tmp_path / "mix.yaml", [*rows, {**world("i2t", 6, teacher="perfect"), "weight": 0.0}])


def ids(path):
    return [row["id"] for row in lines(path)]


def split(mix, out, rl, *words):
    return run("split", "--mix", mix, "--out", out, "--rl", json.dumps(rl), *words)


def test_equal_distances_and_weight_nought(tmp_path, mix):
    assert split(mix, tmp_path / "out", {"world/vqa": 5, "world/i2t": 3}) == 0
    every = ids(tmp_path / "out/embedder/world_vqa.jsonl")
    assert (len(every), ids(tmp_path / "out/rl/world_vqa.jsonl")) == (20, every[::4])
    assert len(ids(tmp_path / "out/rl/world_i2t.jsonl")) == 3
    read = {kind: yaml.safe_load((tmp_path / f"out/{kind}/mix.yaml").read_text()) for kind in ("embedder", "rl")}
    names = {kind: [row["source"]["init_args"]["dataset"] for row in rows] for kind, rows in read.items()}
    assert names == {"embedder": ["world/vqa", "world/t2i"], "rl": ["world/vqa", "world/i2t"]}
    assert [row["weight"] for row in read["rl"]] == [1.0, 1.0]
    pair = JsonlSource(**read["rl"][0]["source"]["init_args"], cache_dir=str(tmp_path / "cache"))[1]
    assert pair.query.images[0].load().size == WorldSource("vqa")[0].query.images[0].load().size
    assert pair.query.tcot


def test_bad_rows_are_left_out_and_named(tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    side = {"text": "q", "images": ["good.png"]}
    rows = [{"id": str(i), "query": side, "target": {"text": f"t{i}"}} for i in range(6)]
    rows[1]["query"] = {"frames": ["gone"]}
    rows[4]["target"] = {}
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(tmp_path / "pairs.jsonl"), "cache_dir": str(tmp_path / "cache")}
    own = write_mix(
        tmp_path / "own.yaml", [{"source": {"class_path": "embedrl.data.JsonlSource", "init_args": source}}]
    )
    assert split(own, tmp_path / "out", {"pairs": 2}) == 1
    assert "pairs" in capsys.readouterr().err
    assert split(own, tmp_path / "out", {"pairs": 2}, "--on_bad", "skip") == 0
    assert ids(tmp_path / "out/embedder/pairs.jsonl") == ["0", "2", "3", "5"]
    assert ids(tmp_path / "out/rl/pairs.jsonl") == ["0", "3"]
    assert [(row["id"], row["cause"]) for row in lines(tmp_path / "out/skipped.jsonl")] == [
        ("row 1", "missing_file"),
        ("row 4", "broken_row"),
    ]
    assert "left out: " in capsys.readouterr().out
    assert split(own, tmp_path / "out", {"pairs": 2}, "--on_bad", "skip", "--max_bad", 1) == 1
    assert "2 bad samples, more than --max_bad 1" in capsys.readouterr().err


def test_disjoint(tmp_path, mix):
    assert split(mix, tmp_path / "out", {"world/vqa": 5}, "--disjoint", "true") == 0
    drawn, left = (set(ids(tmp_path / f"out/{kind}/world_vqa.jsonl")) for kind in ("rl", "embedder"))
    assert (len(drawn), len(left), drawn & left) == (5, 15, set())


def test_pairs_of_middling_success_are_preferred(tmp_path, mix, capsys):
    split(mix, tmp_path / "all", {"world/vqa": 20})
    every = ids(tmp_path / "all/rl/world_vqa.jsonl")
    shares = [0.0] * 5 + [0.1, 0.5, 0.9] + [None] * 4 + [1.0] * 8
    rows = [
        {"dataset": "world/vqa", "id": i, "success": s} for i, s in zip(every, shares, strict=True) if s is not None
    ]
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for size, expected in [(2, [5, 6]), (3, [5, 6, 7]), (5, [5, 6, 7, 8, 10]), (9, [0, 5, 6, 7, 8, 9, 10, 11, 13])]:
        assert split(mix, tmp_path / str(size), {"world/vqa": size}, "--scores", tmp_path / "scores.jsonl") == 0
        drawn = ids(tmp_path / str(size) / "rl/world_vqa.jsonl")
        assert drawn == [every[i] for i in expected]
    assert "with a score in range" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("rl", "words", "code", "told"),
    [
        ({"world/qa": 1}, [], 2, "--rl names world/qa, which is not in the mix: world/vqa"),
        ({"world/vqa": 21}, [], 1, "world/vqa: 21 pairs are to be drawn, it has 20"),
        ({"world/vqa": 0}, [], 2, "--rl.world/vqa 0"),
        ({}, [], 2, "--rl has 0 sets"),
        ({"world/vqa": 1}, ["--low", 0.9, "--high", 0.1], 2, "--low 0.9"),
        ({"world/vqa": 1}, ["--scores", "none.jsonl"], 1, "none.jsonl"),
    ],
)
def test_wrong_flags(tmp_path, mix, rl, words, code, told, capsys):
    assert split(mix, tmp_path / "out", rl, *words) == code
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "row", [{"dataset": "world/vqa", "id": "a"}, {"dataset": "world/vqa", "id": "a", "success": 2}, {"dataset": 1}]
)
def test_broken_scores_are_named(tmp_path, mix, row, capsys):
    (tmp_path / "s.jsonl").write_text('{"dataset": "world/vqa", "id": "a", "success": 1}\n' + json.dumps(row) + "\n")
    assert split(mix, tmp_path / "out", {"world/vqa": 1}, "--scores", tmp_path / "s.jsonl") == 1
    assert "s.jsonl: line 2" in capsys.readouterr().err


def test_scores_of_other_sets_are_refused(tmp_path, mix, capsys):
    (tmp_path / "s.jsonl").write_text('{"dataset": "vqa", "id": "a", "success": 1}\n')
    assert split(mix, tmp_path / "out", {"world/vqa": 1}, "--scores", tmp_path / "s.jsonl") == 1
    assert "no score is about world/vqa" in capsys.readouterr().err
