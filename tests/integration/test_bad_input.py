"""Bad input through the real command line: one line that names the place and the cure, and a non-zero exit code."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from processes import command

from embedrl.cli import main

TCOT = '<thinking>a red dot {"bbox_2d": [[100, 100, 400, 400]]}</thinking><rethink>dot</rethink><answer>red</answer>'
TEXT_TCOT = '<thinking>a dot {"text_keywords": ["dot"]}</thinking><rethink>the dot</rethink><answer>dot</answer>'

RECIPE = """
trainer: {accelerator: cpu, max_steps: 1, default_root_dir: runs, logger: false, enable_checkpointing: false}
model:
  class_path: embedrl.EmbedderModule
  init_args:
    backbone: {class_path: embedrl.QwenVLBackbone, init_args: {path: "embedrl:tiny"}}
    loss: {class_path: embedrl.losses.InfoNCE}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 1.0e-3}}
data:
  class_path: embedrl.EmbedderDataModule
  init_args:
    mix:
      - source: {class_path: embedrl.data.JsonlSource, init_args: {path: pairs.jsonl, cache_dir: cache}}
    batch_size: 2
    sub_batch_size: 2
    micro_batch_size: 4
"""


def huge_png() -> bytes:
    """The header of a 30,000 x 30,000 picture: 900 million pixels that nobody should decode."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 1000)
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "good.png")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    write_pairs(tmp_path, {})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_pairs(folder: Path, query: dict) -> None:
    side = {"text": "find the dot", "images": ["good.png"], "tcot": TCOT}
    target = {"text": "a red dot", "tcot": TEXT_TCOT}
    rows = [
        {"id": "first", "query": {**side, **query}, "target": target},
        {"id": "second", "query": side, "target": {**target, "text": "a dot"}},
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    code = main(["fit", "--config", "recipe.yaml", *flags])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("embedrl: error: ")]
    assert len(lines) <= 1
    return code, lines[0] if lines else ""


def test_the_recipe_runs_on_good_input(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys) == (0, "")


def write_odd_pictures(folder: Path) -> None:
    Image.new("RGB", (1, 20_000)).save(folder / "strip.png")
    info = PngInfo()
    info.add_text("workflow", "x" * (2 << 20), zip=True)
    Image.new("RGB", (8, 8)).save(folder / "text.png", pnginfo=info)
    Image.new("RGB", (8, 8)).save(folder / "eps.jpg", "eps")
    os.mkfifo(folder / "pipe.png")
    (folder / "litter").mkdir()
    (folder / "litter/._0001.png").write_bytes(b"\0\5\x16\7")


def test_a_video_of_odd_frames_trains(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "film").mkdir()
    for name, size in (("1.png", (64, 48)), ("2.png", (48, 64))):
        Image.new("RGB", size, "red").save(folder / "film" / name)
    (folder / "film/._1.png").write_bytes(b"\0\5\x16\7")
    tcot = TCOT.replace('"bbox_2d": [[100, 100, 400, 400]]', '"key_frames": [2]')
    write_pairs(folder, {"images": [], "frames": ["film"], "tcot": tcot})
    assert run(capsys) == (0, "")


BAD_SIDES = {
    "missing file": ({"images": ["gone.png"]}, ["pairs/first", "gone.png"]),
    "truncated PNG": ({"images": ["cut.png"]}, ["pairs/first", "cut.png"]),
    "30,000 x 30,000 picture": ({"images": ["huge.png"]}, ["pairs/first", "huge.png", "max_pixels"]),
    "1 x 20,000 picture": ({"images": ["strip.png"]}, ["pairs/first", "strip.png", "200 times"]),
    "2 MiB of compressed metadata": ({"images": ["text.png"]}, ["pairs/first", "text.png", "without its metadata"]),
    "EPS named JPEG": ({"images": ["eps.jpg"]}, ["pairs/first", "eps.jpg", "none of JPEG, PNG"]),
    "FIFO": ({"images": ["pipe.png"]}, ["pairs/first", "pipe.png", "a FIFO"]),
    "folder without frames": ({"images": [], "frames": ["litter"]}, ["pairs/first", "litter holds no pictures"]),
    "T-CoT without tags": ({"tcot": "a red dot"}, ["pairs/first", "on_bad_tcot"]),
    "box outside the picture": (
        {"tcot": TCOT.replace("[100, 100, 400, 400]", "[100, 100, 400, 4000]")},
        ["pairs/first", "4000", "on_bad_tcot"],
    ),
    "no T-CoT": ({"tcot": ""}, ["pairs/first", "on_missing_tcot"]),
    "nothing in the side": ({"text": "", "images": []}, ["pairs.jsonl", "row 0"]),
}


@pytest.mark.parametrize("case", BAD_SIDES)
def test_bad_sides(case: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query, expected = BAD_SIDES[case]
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:60])
    (folder / "huge.png").write_bytes(huge_png())
    write_odd_pictures(folder)
    write_pairs(folder, query)
    code, line = run(capsys)
    assert code == 1, line
    for part in expected:
        assert part in line, line


def test_malformed_row(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (folder / "pairs.jsonl").open("a") as file:
        file.write('{"id": "third", "query": \n')
    code, line = run(capsys)
    assert code == 1
    assert "pairs.jsonl" in line
    assert "row 2" in line


def test_a_cache_that_cannot_be_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "cache").touch()
    code, line = run(capsys)
    assert code == 1
    for part in ("pairs.jsonl", "cache", "cache_dir", "HF_DATASETS_CACHE"):
        assert part in line, line


BAD_FLAGS = {
    "unknown class_path": (["--model.init_args.loss", "embedrl.losses.contrastive.InfoNCEE"], ["loss", "InfoNCEE"]),
    "wrong type": (["--data.init_args.batch_size", "many"], ["batch_size", "many"]),
    "wrong flag": (["--trainer.max_stepz", "3"], ["max_stepz", "max_steps"]),
    "missing YAML": (["--config", "gone.yaml"], ["gone.yaml"]),
    "value out of range": (["--model.init_args.loss.init_args.temperature", "-1"], ["temperature"]),
    "missing checkpoint": (["--ckpt_path", "last"], ["ckpt_path"]),
    "unknown backbone path": (["--model.init_args.backbone.init_args.path", "./nowhere"], ["./nowhere"]),
    "indivisible batch": (["--data.init_args.sub_batch_size", "3"], ["sub_batch_size"]),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_bad_flags(case: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags, expected = BAD_FLAGS[case]
    code, line = run(capsys, *flags)
    assert code in (1, 2), line
    for part in expected:
        assert part in line, line


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"x" * 999])
def test_a_broken_checkpoint_leaves_no_run_folder(
    folder: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (folder / "broken.ckpt").write_bytes(content)
    code, line = run(capsys, "--ckpt_path", "broken.ckpt", "--trainer.logger", "true")
    assert code == 1
    assert "--ckpt_path broken.ckpt: not a checkpoint, or cut short (" in line
    assert not (folder / "runs").exists()


def test_the_process_exits_with_the_code_and_one_line(folder: Path) -> None:
    write_pairs(folder, {"images": ["gone.png"]})
    process = command(["fit", "--config", "recipe.yaml"], folder / "out.log")
    process.join(240)
    assert process.exitcode == 1
    out = (folder / "out.log").read_text()
    assert "Traceback" not in out
    assert "gone.png" in out.strip().splitlines()[-1]


SKIPPED = {
    "missing file": ({"images": ["gone.png"]}, "missing_file"),
    "1 x 20,000 picture": ({"images": ["strip.png"]}, "thin_picture"),
    "2 MiB of compressed metadata": ({"images": ["text.png"]}, "broken_picture"),
    "FIFO": ({"images": ["pipe.png"]}, "broken_picture"),
    "text longer than the model reads": ({"text": "long " * 9000}, "too_long"),
    "T-CoT without tags": ({"tcot": "a red dot"}, "bad_tcot"),
}


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=pytest.mark.slow) if c.startswith(("2 MiB", "FIFO")) else c for c in SKIPPED],
)
def test_skipping_is_counted_and_named(folder: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    query, cause = SKIPPED[case]
    write_odd_pictures(folder)
    write_pairs(folder, query)
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    rows += [{**rows[1], "id": "third", "target": {**rows[1]["target"], "text": "one dot"}}]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    skip = [
        "--data.init_args.on_bad",
        "skip",
        "--data.init_args.batch_size",
        "3",
        "--data.init_args.sub_batch_size",
        "3",
    ]
    assert run(capsys, *skip) == (0, "")
    (named,) = [json.loads(line) for line in (folder / "runs/skipped.jsonl").read_text().splitlines()]
    assert (named["dataset"], named["id"], named["cause"]) == ("pairs", "first", cause)
    if case != "missing file":
        return
    code, line = run(capsys, *skip, "--data.init_args.max_bad", "0")
    assert code == 1
    assert line.startswith(f"embedrl: error: 1 bad samples, more than data.max_bad 0 ({cause} 1, ")
