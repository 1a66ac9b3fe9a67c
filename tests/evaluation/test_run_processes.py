"""An evaluation on two processes, and one that is killed."""

import json
import os
from pathlib import Path

import pytest
import yaml
from processes import finish, launch, start
from safetensors.torch import load_file

import embedrl

WORLD = {"split": "val", "size": 20, "families": ["i2t", "t2i"]}
TASKS = [{"class_path": "embedrl.data.world.WorldTasks", "init_args": WORLD}]


def config(folder: Path, name: str, cache: str | None = None) -> list[str]:
    content = {
        "benchmark": "world",
        "out": str(folder / name),
        "backbone": {"class_path": "toy_embedder.ToyBackbone"},
        "tasks": TASKS,
        "encode": {"shard_size": 8, "batch_size": 4, "cache": cache},
        "device": "cpu",
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return ["eval", "--config", str(path)]


def run(args, die_after=None) -> None:
    if die_after is not None:
        os.environ["TOY_DIES_AFTER"] = str(die_after)
    from embedrl.cli import main

    assert main(args) == 0


def report(folder: Path) -> dict:
    return {
        result["name"]: {key: result[key] for key in ("metrics", "optimistic", "delta_s", "data_hash")}
        for result in json.loads((folder / "report.json").read_text())["sets"]
    }


def embedded(folder: Path) -> int:
    return json.loads((folder / "provenance.json").read_text())["starts"][-1]["sides_embedded"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    finish([start(run, (config(folder, "whole"),), folder / "whole.log")], folder)
    return folder / "whole"


@pytest.mark.dist
def test_two_processes_find_what_one_finds(tmp_path, alone):
    main = Path(embedrl.__file__).parent / "__main__.py"
    finish(launch(main, *config(tmp_path, "both"), log=tmp_path), tmp_path)
    assert report(tmp_path / "both") == report(alone)
    assert embedded(tmp_path / "both") == embedded(alone), "nothing twice"
    logs = [(tmp_path / f"__main__.{rank}.log").read_text() for rank in range(2)]
    assert ["Wrote " in log for log in logs] == [True, False]
    starts = json.loads((tmp_path / "both/provenance.json").read_text())["starts"]
    assert [s["processes"] for s in starts] == [2]


def test_a_killed_run_goes_on_where_it_was(tmp_path, alone):
    args = config(tmp_path, "killed")
    process = start(run, (args, 30), tmp_path / "first.log")
    process.join(200)
    assert process.exitcode == -9, (tmp_path / "first.log").read_text()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").rglob("*.safetensors")}
    rows = sum(len(load_file(path)["vectors"]) for path in kept)
    assert 20 <= rows <= 30
    assert not (tmp_path / "killed/report.json").exists()
    finish([start(run, (args,), tmp_path / "second.log")], tmp_path)
    assert report(tmp_path / "killed") == report(alone)
    assert embedded(tmp_path / "killed") == embedded(alone) - rows
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    assert not list((tmp_path / "killed").rglob("*.part"))
