"""`embedrl eval` on the shipped configurations of the public benchmarks, over local copies in the public layouts."""

import json
from pathlib import Path

import pytest
from local_copies import write_frames, write_lines, write_parquet, write_picture

from embedrl.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = str(CONFIGS / "parts/backbone/tiny.yaml")


def evaluate(benchmark, root, out, *flags):
    config = str(CONFIGS / f"eval/{benchmark}.yaml")
    small = ["--backbone", TINY, "--encode.num_workers", "0", "--device", "cpu", "--render.tcot", "none"]
    return main(["eval", "--config", config, "--root", str(root), "--out", str(out), *small, *flags])


def copy_of_mmeb(root):
    """Two data sets: questions whose answers are texts, and pages to be found by their query."""
    for name in ("a", "b"):
        write_picture(root / f"image-tasks/OK-VQA/{name}.jpg")
    rows = [
        {
            "qry_inst": "<|image_1|>\nAnswer:", "qry_text": f"what is {name} ?", "qry_img_path": f"OK-VQA/{name}.jpg",
            "tgt_inst": "", "tgt_text": ["pony", "dog", "cat"], "tgt_img_path": ["", "", ""],
        }
        for name in ("a", "b")
    ]  # fmt: skip
    write_parquet(root / "image-query/OK-VQA/test-00000-of-00001.parquet", rows)


def test_mmeb_v2_names_what_is_missing_and_averages_nothing_away(tmp_path, capsys):
    copy_of_mmeb(tmp_path / "copy")
    out = tmp_path / "out"
    assert evaluate("mmeb_v2", tmp_path / "copy", out, "--on_bad", "skip") == 0
    printed = capsys.readouterr().out
    scores, report = (json.loads((out / name).read_text()) for name in ("scores.json", "report.json"))
    assert list(scores["metrics"]) == ["image"]
    assert list(scores["metrics"]["image"]) == ["OK-VQA"]
    figures = scores["metrics"]["image"]["OK-VQA"]
    assert (figures["num_pred"], figures["num_data"]) == (2, 1000)
    assert len(scores["metadata"]["missing"]) == 77
    assert set(report["means"].values()) == {None}
    assert "missing: 77 data sets" in printed
    assert "2 queries, the public data have 1000" in printed
    assert "Embed-RL-2B" in printed  # its published figures stand beside
    assert report["missing"]["K700"].startswith("no video-tasks/data/k700.jsonl, no video-tasks/frames")


def test_missing_data_sets_stop_before_anything_is_computed_unless_told_otherwise(tmp_path, capsys):
    copy_of_mmeb(tmp_path / "copy")
    assert evaluate("mmeb_v2", tmp_path / "copy", tmp_path / "out") == 1
    *told, error = capsys.readouterr().err.splitlines()
    assert error.startswith(
        "embedrl: error: 77 of 78 data sets are not below --root, the first is ImageNet-1K (no image-"
    )
    assert len([line for line in told if line.startswith("  ")]) == 77
    assert not any(line.startswith("  OK-VQA") for line in told)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["MSRVTT"])
def test_uvrb(name, tmp_path, capsys):
    folder = tmp_path / "copy" / name
    write_lines(folder / "jsonl/queries.jsonl", [{"id": f"q{i}", "text": f"a thing {i}"} for i in range(2)])
    write_lines(folder / "jsonl/instances.jsonl", [{"qid": f"q{i}", "pos": [f"d{i}"]} for i in range(2)])
    write_lines(folder / "jsonl/corpus.jsonl", [{"id": f"d{i}", "video": f"{i}.mp4"} for i in range(3)])
    for video in range(3):
        write_frames(folder / "videos_frames" / str(video), 3)
    out = tmp_path / "out"
    assert evaluate("uvrb", tmp_path / "copy", out, "--sets", f'["{name}"]') == 0
    report = json.loads((out / "report.json").read_text())
    assert [result["main_metric"] for result in report["sets"]] == ["recall@1"]
    assert len(report["missing"]) == 15
    assert "missing: 15 data sets" in capsys.readouterr().out
