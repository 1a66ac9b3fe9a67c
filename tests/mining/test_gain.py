"""`embedrl gain` through the command line, on texts and pictures."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from embedrl.cli import main
from embedrl.data.formats import JsonlSource
from embedrl.data.render import RenderOptions
from embedrl.errors import ConfigError
from embedrl.evaluation.vectors import VectorCache
from embedrl.mining.gain import GainOptions
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.tcot.parser import build
from embedrl.types import Modality

TINY = Path(__file__).parents[2] / "configs/parts/backbone/tiny.yaml"


def tcot(modality, answer, **cues):
    return build(modality, f"it is {answer}", "so", answer, **cues).render()


@pytest.fixture(scope="module")
def mix(tmp_path_factory):
    """Five pairs of a colour: some T-CoTs name it, some name another; one pair has none, one has a negative."""
    folder = tmp_path_factory.mktemp("gain")
    rows = []
    for i, (colour, said) in enumerate(
        [("red", "red star"), ("blue", "white moon"), ("green", "green star"), ("white", "red ring")]
    ):
        Image.new("RGB", (48, 48), colour).save(folder / f"{colour}.png")
        box = {"boxes": [[0, 0, 1000, 1000]]}
        rows.append({
            "id": str(i),
            "query": {"text": f"a {colour} star", "tcot": tcot(Modality.TEXT, said, keywords=[colour])},
            "target": {"images": [f"{colour}.png"], "tcot": tcot(Modality.IMAGE, said, **box)},
        })  # fmt: skip
    rows[1]["negatives"] = [rows[0]["target"]]
    rows.append({"id": "raw", "query": {"text": "a star"}, "target": {"images": ["red.png"]}})
    (folder / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"class_path": "embedrl.data.JsonlSource", "init_args": {"path": str(folder / "set.jsonl")}}
    (folder / "mix.yaml").write_text(yaml.safe_dump([{"source": source, "weight": 2.0, "name": "colours"}]))
    return folder / "mix.yaml"


def run(mix, out, *words):
    cache = str(mix.parent / "vectors")
    return main(
        ["gain", "--mix", str(mix), "--backbone", str(TINY), "--out", str(out), "--encode.cache", cache, *words]
    )


def rows_of(out):
    return [json.loads(line) for line in (out / "colours.jsonl").read_text().splitlines()]


def expected(mix, tmp_path):
    """Each pair's gains from vectors embedded one by one."""
    source = JsonlSource(str(mix.parent / "set.jsonl"))
    cache = VectorCache(tmp_path / "own", backbone(), RenderOptions(on_missing_tcot="raw"), torch.device("cpu"))

    def vector(side):
        return next(iter(cache.embed([side], cache.hashes([side]), "x").read()))[0].double()

    gains = []
    for i in range(len(source)):
        (q1, q0), (t1, t0) = (
            (vector(side), vector(side.with_tcot(""))) for side in (source[i].query, source[i].target)
        )
        gains.append([float(q1 @ t1 - q0 @ t0), float(q1 @ t1 - q0 @ t1), float(q1 @ t1 - q1 @ t0)])
    return gains


def backbone():
    options = yaml.safe_load(TINY.read_text())["init_args"]
    from embedrl.models.qwen_vl.preprocess import PixelBudget

    for name in ("image_pixels", "evidence_pixels", "frame_pixels"):
        options[name] = PixelBudget(**options[name])
    return QwenVLBackbone(**options)


def test_tcots_stay_where_they_gain(mix, tmp_path, capsys):
    assert run(mix, tmp_path / "pair") == 0, capsys.readouterr().err
    assert run(mix, tmp_path / "side", "--options.of", "side") == 0, capsys.readouterr().err
    gains, given = (
        expected(mix, tmp_path),
        [json.loads(line) for line in (mix.parent / "set.jsonl").read_text().splitlines()],
    )
    assert len({gain[0] > 0 for gain in gains[:4]}) == 2, gains  # or the test would show little
    for out, places in (("pair", (0, 0)), ("side", (1, 2))):
        for row, before, gain in zip(rows_of(tmp_path / out), given, gains, strict=True):
            assert list(row["gain"].values()) == pytest.approx(gain, abs=2e-5)
            for role, place in zip(("query", "target"), places, strict=True):
                assert row[role].get("tcot", "") == (before[role].get("tcot", "") if gain[place] > 0 else "")
    (tmp_path / "pair/report.json").is_file()
    report = json.loads((tmp_path / "pair/report.json").read_text())["data_sets"]["colours"]
    kept = 2 * sum(gain[0] > 0 for gain in gains[:4])
    assert (report["pairs"], report["tcots"], report["kept"], report["share"]) == (5, 8, kept, kept / 8)
    (row,) = yaml.safe_load((tmp_path / "pair/mix.yaml").read_text())
    assert len(JsonlSource(**row["source"]["init_args"])) == 5  # training reads it
    assert row["weight"] == 2.0


@pytest.mark.parametrize(("least", "kept"), [("-2", 8), ("2", 0)])
def test_everybody_and_nobody(least, kept, mix, tmp_path, capsys):
    assert run(mix, tmp_path / "out", "--options.least", least) == 0
    captured = capsys.readouterr()
    assert ("no T-CoT gains more than 2.0: all of its pairs will be trained raw" in captured.err) is (kept == 0)
    rows = rows_of(tmp_path / "out")
    sides = [row[role] for row in rows for role in ("query", "target")]
    assert sum("tcot" in side for side in sides) == kept
    (negative,) = rows[1]["negatives"]
    assert ("tcot" in negative) is (kept > 0)


@pytest.mark.slow
def test_a_bad_pair_is_left_out(mix, tmp_path, capsys):
    lines = (mix.parent / "set.jsonl").read_text().splitlines()
    broken = json.loads(lines[0]) | {"id": "gone"}
    broken["target"] = {"images": ["gone.png"]}
    (mix.parent / "bad.jsonl").write_text("\n".join([json.dumps(broken), *lines[2:4]]) + "\n")
    source = {"class_path": "embedrl.data.JsonlSource", "init_args": {"path": str(mix.parent / "bad.jsonl")}}
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump([{"source": source, "name": "colours"}]))
    flags = [
        "gain",
        "--mix",
        str(tmp_path / "mix.yaml"),
        "--backbone",
        str(TINY),
        "--encode.cache",
        str(mix.parent / "vectors"),
    ]
    assert main([*flags, "--out", str(tmp_path / "raise")]) == 1
    assert "gone.png" in capsys.readouterr().err.strip().splitlines()[-1]
    assert main([*flags, "--out", str(tmp_path / "skip"), "--on_bad", "skip"]) == 0, capsys.readouterr().err
    assert [row["id"] for row in rows_of(tmp_path / "skip")] == ["2", "3"]
    assert "gone" in (tmp_path / "skip/skipped.jsonl").read_text()


def test_no_number():
    with pytest.raises(ConfigError, match="least is nan"):
        GainOptions(float("nan"))
