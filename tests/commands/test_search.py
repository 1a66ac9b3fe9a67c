"""`embedrl index` and `embedrl search` from a folder of pictures to a picture of hits, with a real model."""

import json

import pytest
from PIL import Image

from embedrl import QwenVLBackbone, cli

pytest.importorskip("lancedb")


@pytest.fixture
def model(tmp_path):
    backbone = QwenVLBackbone("embedrl:tiny")
    backbone.build()
    backbone.export(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_from_a_folder_to_hits(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name, color in (("red", "red"), ("blue", "blue"), ("green", "green")):
        Image.new("RGB", (64, 48), color).save(tmp_path / f"photos/{name}.png")
    (tmp_path / "photos/broken.png").write_bytes(b"x")
    (tmp_path / "more.csv").write_text(
        "image,text,year\nphotos/red.png,a red one,2001\nphotos/blue.png,a blue one,1990\n"
    )

    def run(*words):
        code = cli.main([str(word) for word in words])
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.out + said.err

    (tmp_path / "index.yaml").write_text(f"out: x.lance\nembedder: {model}\ndevice: cpu\n")
    said = run("index", "build", "photos", "--config", "index.yaml")
    assert "3 added, 3 embedded, 0 known already, 1 skipped (broken_picture 1)" in said
    assert "2 added" in run("index", "add", "x.lance", "more.csv", "--device", "cpu")
    stats = json.loads(run("index", "stats", "x.lance"))
    assert (stats["rows"], stats["search"], stats["models"]) == (5, "exact", {"embedder": str(model)})
    said = run(
        "search", "x.lance", "--image", "photos/red.png", "--where", "year IS NULL", "--k", 1, "--out", "hits.png"
    )
    assert "red.png" in said
    assert "1.0000" in said
    assert Image.open("hits.png").width > 400
    assert "year=2001" in run("search", "x.lance", "--text", "red", "--hybrid", "true", "--where", "year > 2000")
    said = run("search", "x.lance", "--text", "red", "--k", 2, "--rerank", 3, "--reranker", "embedrl:tiny")
    assert "reranked" in said
    assert "duplicates: none" in run("index", "verify", "x.lance", "--embedder", model)
    assert "1 rows deleted, 4 left" in run("index", "delete", "x.lance", "--where", "year < 2000")
    assert "4 rows in 1 files, exact search" in run("index", "compact", "x.lance")
    for words, message in {
        ("search", "x.lance"): "nothing to search for: give --text or --image",
        ("search", "none.lance", "--text", "a"): "no index there",
        ("search", "x.lance", "--text", "a", "--reason", "true"): "--reasoner is missing",
        ("search", "x.lance", "--text", "a", "--rerank", "2"): "--rerank 2: give a number above 0 and a model",
        ("search", "x.lance", "--text", "a", "--reranker", "embedrl:tiny"): "--rerank 0: give a number above 0",
        ("search", "x.lance", "--text", "a", "--rerank", "2", "--reranker", "none"): "--reranker none",
        ("search", "x.lance", "--text", "a", "--reason", "auto"): "--reason auto goes with --gate.below",
        ("search", "x.lance", "--text", "a", "--reason", "auto", "--gate.share", "0.5"): "goes with --gate.below",
        ("search", "x.lance", "--text", "a", "--where", "nope = 1"): "No field named nope",
        ("index", "build", "photos"): "--embedder is missing",
        ("index", "delete", "x.lance"): "one of both",
        ("index", "compact", "x.lance", "--ann_rows", "3"): "--ann_rows 3",
    }.items():
        assert cli.main(list(words)) != 0
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1, error
