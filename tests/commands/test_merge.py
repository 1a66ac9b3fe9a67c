"""`embedrl merge` through the command line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from embedrl.cli import main
from embedrl.models.qwen_vl.backbone import QwenVLBackbone

TINY = Path(__file__).parents[2] / "configs/parts/backbone/tiny.yaml"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The world's base, and noise in its place."""
    root = tmp_path_factory.mktemp("merge")
    backbone = QwenVLBackbone("embedrl:world_base")
    backbone.build()
    backbone.export(root / "a")
    shutil.copytree(root / "a", root / "b")
    noise = {name: torch.randn_like(tensor) for name, tensor in load_file(root / "a/model.safetensors").items()}
    save_file(noise, root / "b/model.safetensors", metadata={"format": "pt"})
    return root


def run(models, out, *words):
    return main(["merge", "--models", json.dumps([str(models / "a"), str(models / "b")]), "--out", str(out), *words])


def test_writes_a_model(models, tmp_path, capsys):
    assert run(models, tmp_path / "out", "--weights", "[0.75, 0.25]", "--method", "slerp") == 0
    assert "wrote" in capsys.readouterr().err
    facts = json.loads((tmp_path / "out/merge.json").read_text())
    assert facts["weights"] == [0.75, 0.25]
    assert facts["method"] == "slerp"
    assert run(models, tmp_path / "out") == 2
    assert "already there" in capsys.readouterr().err


@pytest.mark.slow
def test_searches_the_weights_on_validation_tasks(models, tmp_path):
    tasks = [
        {"class_path": "embedrl.data.world.WorldTasks", "init_args": {"split": "val", "size": 12, "families": ["t2i"]}}
    ]
    words = ["--grid", "3", "--backbone", str(TINY), "--tasks", json.dumps(tasks)]
    assert run(models, tmp_path / "out", *words) == 0
    facts = json.loads((tmp_path / "out/merge.json").read_text())
    assert [one["weight"] for one in facts["grid"]] == [0.0, 0.5, 1.0]
    best = max(facts["grid"], key=lambda one: one["hit@1"])
    assert facts["weights"] == [1 - best["weight"], best["weight"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--weights", "[1.0]"), "--weights has 1 numbers for 2 models"),
        (("--grid", "3"), "--grid scores on tasks: give --backbone and --tasks"),
        (("--grid", "3", "--weights", "[0.5, 0.5]"), "--grid searches the weights"),
        (("--method", "average"), "average"),
        (("--method", "svd"), "--method svd merges adapters"),
    ],
)
def test_bad_flags_are_one_line(models, tmp_path, capsys, words, message):
    assert run(models, tmp_path / "out", *words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()
