"""`embedrl mine` through the command line, on texts and pictures."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from PIL import Image
from processes import finish, launch

import embedrl
from embedrl.cli import main
from embedrl.data.formats import JsonlSource
from embedrl.data.render import RenderOptions, render
from embedrl.errors import CAUSES
from embedrl.models.backbone import Backbone
from embedrl.training.trained_model import load_reranker

TINY = Path(__file__).parents[2] / "configs/parts/backbone/tiny.yaml"
COLOURS = {"red": (200, 0, 0), "blue": (0, 0, 200), "green": (0, 160, 0), "white": (240, 240, 240)}


@pytest.fixture
def mix(tmp_path):
    """Nine pairs: two queries a colour ask for its picture, one also for another; a row has a negative of its own."""
    (tmp_path / "images").mkdir()
    rows = []
    for i, (name, colour) in enumerate(COLOURS.items()):
        Image.new("RGB", (48, 48), colour).save(tmp_path / f"images/{name}.png")
        for j, text in enumerate((f"a {name} star", f"{name} top left")):
            rows.append({"id": f"{i}{j}", "query": {"text": text}, "target": {"images": [f"images/{name}.png"]}})
    rows.append({"id": "twin", "query": {"text": "a red star"}, "target": {"images": ["images/blue.png"]}})
    rows[0]["negatives"] = [{"text": "a note"}]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"class_path": "embedrl.data.JsonlSource", "init_args": {"path": str(tmp_path / "set.jsonl")}}
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump([{"source": source, "weight": 2.0, "name": "col/ours"}]))
    return tmp_path / "mix.yaml"


def run(mix, out, *words):
    return main(
        ["mine", "--mix", str(mix), "--backbone", str(TINY), "--out", str(out), "--render.tcot", "none", *words]
    )


def mined(out):
    (row,) = yaml.safe_load((out / "mix.yaml").read_text())
    assert row["weight"] == 2.0
    return JsonlSource(**row["source"]["init_args"])


def test_writes_a_mix_with_negatives_and_scores_and_resumes(mix, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(mix, out, "--options.share", "null") == 0, capsys.readouterr().err
    source, before = mined(out), JsonlSource(str(tmp_path / "set.jsonl"))
    for i in range(len(before)):
        pair, old = source[i], before[i]
        assert (pair.id, pair.query.text, pair.target.key) == (old.id, old.query.text, old.target.key)
        assert len(pair.negatives) == len(pair.negative_scores) <= 4
        assert all(score < pair.score for score in pair.negative_scores)
        assert sorted(pair.negative_scores, reverse=True) == list(pair.negative_scores)
        keys = {side.key for side in pair.negatives}
        assert old.target.key not in keys
        if old.query.text == "a red star":  # red and blue are both known answers
            assert not keys & {before[0].target.key, before[2].target.key}
    report = json.loads((out / "report.json").read_text())
    figures = report["data_sets"]["col/ours"]
    assert (figures["pairs"], figures["candidates"]) == (9, 5)
    assert figures["negatives"] == sum(len(source[i].negatives) for i in range(9)) > 0
    assert report["sides_embedded"] > 0
    assert Image.open(out / "samples/col_ours.png").width > 600
    # The cosines are the Embedder's.
    parser = ArgumentParser()
    parser.add_argument("--backbone", type=Backbone, enable_path=True)
    torch.manual_seed(0)
    backbone = parser.instantiate(parser.parse_args([f"--backbone={TINY}"])).backbone
    backbone.build()
    backbone.eval()
    chats = [render(side, RenderOptions(tcot="none")) for side in (source[3].query, source[3].target)]
    with torch.no_grad():
        query, target = backbone.encode(backbone.preprocessor()(chats))
    assert source[3].score == pytest.approx((query @ target).item(), abs=1e-5)
    # Again: nothing is embedded twice, and the same is written.
    written = (out / "col_ours.jsonl").read_bytes()
    assert run(mix, out, "--options.share", "null") == 0
    assert json.loads((out / "report.json").read_text())["sides_embedded"] == 0
    assert (out / "col_ours.jsonl").read_bytes() == written


def test_a_rerankers_logits_are_the_scores(mix, tmp_path, capsys):
    words = ("--options.share", "null", "--reranker", "embedrl:tiny", "--style", "brief")
    assert run(mix, tmp_path / "out", *words) == 0, capsys.readouterr().err
    source, reranker = mined(tmp_path / "out"), load_reranker("embedrl:tiny", "brief")
    assert any(len(source[i].negatives) for i in range(len(source)))
    for i in range(len(source)):
        pair = source[i]
        for side, score in zip((pair.target, *pair.negatives), (pair.score, *pair.negative_scores), strict=True):
            [probability] = reranker.score(pair.query, [side]).tolist()
            assert 1 / (1 + math.exp(-score)) == pytest.approx(probability, abs=1e-5)
    assert json.loads((tmp_path / "out/report.json").read_text())["config"]["reranker"] == "embedrl:tiny"
    assert run(mix, tmp_path / "no", "--reranker", "none") == 1
    assert "--reranker none: no such folder" in capsys.readouterr().err
    for think, message in (("7", "--think is 7, but no model is given that thinks"), ("-1", "--think is -1")):
        assert run(mix, tmp_path / "no_thought", "--think", think) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "no_thought").exists()


@pytest.mark.slow
@pytest.mark.dist
def test_two_processes_mine_as_one(mix, tmp_path):
    """A broken picture is counted once; each side is embedded by one of them."""
    (tmp_path / "images/blue.png").write_bytes(b"no picture")
    words = ("--on_bad", "skip", "--options.share", "null", "--encode.shard_size", "2")
    assert run(mix, tmp_path / "one", *words) == 0
    line = ["mine", "--mix", mix, "--backbone", TINY, "--out", tmp_path / "two", "--render.tcot", "none", *words]
    finish(launch(Path(embedrl.__file__).parent / "__main__.py", *line, log=tmp_path), tmp_path)
    one, two = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["data_sets"] == one["data_sets"]
    assert two["sides_embedded"] == one["sides_embedded"] > 0
    left, right = ((tmp_path / name / "col_ours.jsonl").read_text() for name in ("one", "two"))
    assert left == right
    assert len((tmp_path / "two/skipped.jsonl").read_text().splitlines()) == sum(
        two["data_sets"]["col/ours"]["skipped"].get(cause, 0) for cause in CAUSES
    )
    assert ["wrote " in (tmp_path / f"__main__.{rank}.log").read_text() for rank in (0, 1)] == [True, False]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--options.share", "2"), "--options.share is 2"),
        pytest.param(
            ("--device", "cuda"), "--device cuda: torch finds no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)  # fmt: skip
def test_bad_flags_are_one_line(mix, tmp_path, capsys, words, message):
    assert run(mix, tmp_path / "out", *words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_a_broken_picture_is_named(mix, tmp_path, capsys):
    (tmp_path / "images/blue.png").write_bytes(b"no picture")
    assert run(mix, tmp_path / "out") == 1
    assert "blue.png" in capsys.readouterr().err
    assert run(mix, tmp_path / "out", "--on_bad", "skip") == 0
    left = mined(tmp_path / "out")
    assert [left[i].id for i in range(len(left))] == ["00", "01", "20", "21", "30", "31"]  # of red, green, white
    report = json.loads((tmp_path / "out/report.json").read_text())["data_sets"]["col/ours"]
    assert report["skipped"].keys() >= {"broken_picture"}
    assert "blue.png" in (tmp_path / "out/skipped.jsonl").read_text()
