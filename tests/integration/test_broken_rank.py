"""A sample that only one of two processes meets is broken: both end, soon, each with its one line; or both go on."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from egrl_small import CONFIGS
from PIL import Image
from ports import launching
from processes import PATIENCE, launch

import embedrl

RECIPES = {"embedder/qwen3_vl_2b": 8, "reasoner/qwen3_vl_8b": 2, "egrl/qwen3_vl_8b": 4}
"""Recipe, and as many pairs as make its first step, when shrunk: one of them is broken."""
SOON = PATIENCE
"""Seconds in which both must have ended, start-up included; left alone they wait for half an hour on GPUs."""
TCOT = '<thinking>a dot {"bbox_2d": [[100, 100, 400, 400]]}</thinking><rethink>dot</rethink><answer>red</answer>'
TEXT_TCOT = '<thinking>a dot {"text_keywords": ["dot"]}</thinking><rethink>the dot</rethink><answer>dot</answer>'


def write_pairs(folder: Path, count: int) -> Path:
    """Pairs with a picture each; the last one's is cut short."""
    Image.new("RGB", (64, 64), "red").save(folder / "good.png")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:60])
    rows = [
        {
            "id": str(i),
            "query": {"text": "find", "images": ["cut.png" if i == count - 1 else "good.png"], "tcot": TCOT},
            "target": {"text": f"dot {i}", "tcot": TEXT_TCOT},
        }
        for i in range(count)
    ]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def words(recipe: str, folder: Path, bad: dict, **trainer) -> list[str]:
    """The recipe, shrunk, on these pairs; `bad` are options for bad samples."""
    init_args = {"path": str(write_pairs(folder, RECIPES[recipe])), "cache_dir": str(folder / "cache")}
    source = {"class_path": "embedrl.data.JsonlSource", "init_args": init_args}
    data = {
        "embedder": {"mix": [{"source": source}]},
        "reasoner": {"train": {"init_args": {"sources": [source]}}},
        "egrl": {"mix": [{"source": source}]},
    }[recipe.partition("/")[0]] | bad
    overlay = folder / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({"trainer": trainer, "data": {"init_args": data}}))
    files = CONFIGS / f"{recipe}.yaml", CONFIGS / "parts/shrink.yaml", overlay
    configs = [word for file in files for word in ("--config", str(file))]
    return ["fit", *configs, "--trainer.default_root_dir", str(folder / "runs")]


def lines(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.startswith("embedrl: ")]


@pytest.mark.dist
@pytest.mark.parametrize(
    ("recipe", "trainer"),
    [
        ("embedder/qwen3_vl_2b", {}),
        *(pytest.param(recipe, {}, marks=pytest.mark.slow) for recipe in [*RECIPES][1:]),
        pytest.param("embedder/qwen3_vl_2b", {"strategy": "ddp"}, marks=pytest.mark.slow),
    ],
)
def test_both_processes_end_with_the_one_error(recipe, trainer, tmp_path):
    codes, logs = finish(words(recipe, tmp_path, {"on_bad": "raise"}, **trainer), tmp_path)
    assert codes == [1, 1], logs
    told = [lines(log) for log in logs]
    assert [len(each) for each in told] == [1, 1], told
    [met], [heard] = sorted(told, key=lambda each: "ends with it" in each[0])
    assert "cut.png" in met
    assert heard.startswith(met), (met, heard)
    assert not any("Traceback" in log for log in logs), logs


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_both_processes_go_on_without_it(recipe, tmp_path):
    codes, logs = finish(words(recipe, tmp_path, {"on_bad": "skip"}, strategy="ddp"), tmp_path)
    assert codes == [0, 0], logs
    (path,) = tmp_path.rglob("skipped.jsonl")
    (row,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert row["cause"] == "broken_picture"
    assert "cut.png" in row["message"]


@pytest.mark.dist
@pytest.mark.slow
def test_both_processes_end_at_the_limit(tmp_path):
    bad = {"on_bad": "skip", "max_bad": 0}
    codes, logs = finish(words("embedder/qwen3_vl_2b", tmp_path, bad, strategy="ddp"), tmp_path)
    assert codes == [1, 1], logs
    assert all("1 bad samples, more than data.max_bad 0 (broken_picture 1" in log for log in logs), logs


def finish(arguments: list[str], folder: Path) -> tuple[list[int | None], list[str]]:
    """Run two processes; returns their exit codes and what they wrote."""
    main = Path(embedrl.__file__).parent / "__main__.py"
    processes = launch(main, *arguments, log=folder)
    deadline = time.monotonic() + SOON
    try:
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
    finally:
        codes = [process.exitcode for process in processes]
        for process in processes:
            process.kill()
    return codes, [(folder / f"__main__.{rank}.log").read_text() for rank in (0, 1)]


@pytest.mark.dist
@pytest.mark.slow
def test_processes_that_lightning_starts_end_as_well(tmp_path):
    """No torchrun, which would kill what is left over."""
    recipe = "embedder/qwen3_vl_2b"
    started = subprocess.run(
        [sys.executable, "-m", "embedrl", *words(recipe, tmp_path, {"on_bad": "raise"})],
        env=launching() | {"OMP_NUM_THREADS": "1"},
        cwd=tmp_path, capture_output=True, text=True, timeout=SOON,
    )  # fmt: skip
    assert started.returncode == 1, started.stderr
    told = lines(started.stderr)  # of both processes
    assert [("cut.png" in line, "ends with it" in line) for line in sorted(told, key=len)] == [
        (True, False),
        (True, True),
    ]
