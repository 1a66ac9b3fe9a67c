"""The command line on two processes, started as torchrun does: the quickstarts with another strategy."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from cli_process import logged
from egrl_small import CONFIGS, RETRIEVAL, TRAINER, overlay
from processes import finish, launch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

import embedrl
from embedrl.commands.export import export

FSDP2 = {
    "class_path": "embedrl.distributed.FSDP2Strategy",
    "init_args": {"save_distributed_checkpoint": True},
}


def settings(recipe: str, strategy, out: Path) -> dict:
    ship = {"class_path": "embedrl.training.ExportModel", "init_args": {"out": str(out)}}
    trainer = {"devices": 2, "strategy": strategy, "callbacks": [RETRIEVAL, ship]}
    if recipe == "egrl":
        return overlay({**trainer, "max_steps": 4, "val_check_interval": 2})
    return {
        "trainer": TRAINER | trainer | {"max_steps": 2, "val_check_interval": 2},
        "model": {"init_args": {"generator": {"init_args": {"path": "embedrl:tiny"}}, "max_new_tokens": 3}},
        "data": {"init_args": {"batch_size": 4, "micro_batch_size": 2, "val": {"init_args": {"limit": 1}}}},
    }


def assert_same_tensors(one: Path, other: Path) -> None:
    [a], [b] = (list(folder.glob("*.safetensors")) for folder in (one, other))
    a, b = load_file(a), load_file(b)
    assert a.keys() == b.keys()
    assert all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize(("recipe", "strategy"), [("egrl", FSDP2), ("reasoner", "ddp")])
def test_a_quickstart_on_two_processes(recipe, strategy, tmp_path):
    path, root, out = tmp_path / "overlay.yaml", tmp_path / "runs", tmp_path / "model"
    path.write_text(yaml.safe_dump(settings(recipe, strategy, out)))
    configs = ["--config", CONFIGS / f"quickstart/{recipe}.yaml", "--config", path]
    main = Path(embedrl.__file__).parent / "__main__.py"
    finish(launch(main, "fit", *configs, "--trainer.default_root_dir", root, log=tmp_path), tmp_path)
    assert [folder.name for folder in root.iterdir()] == ["version_0"]
    run = root / "version_0"
    assert sorted(logged(run, "reward/total/mean" if recipe == "egrl" else "train/loss")) == [0, 1]
    assert len(logged(run, "val/hit@1")) == 1
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    assert (run / "checkpoints/last.ckpt").is_dir() == (strategy == FSDP2)
    [start] = json.loads((run / "provenance.json").read_text())["starts"]
    assert start["processes"] == 2
    assert start["finished"]
    AutoModelForImageTextToText.from_pretrained(out)
    export(run / "checkpoints/last.ckpt", tmp_path / "exported")
    assert_same_tensors(out, tmp_path / "exported")
    assert (tmp_path / "__main__.0.log").read_text().count("Done: ") == 1
    assert "Done: " not in (tmp_path / "__main__.1.log").read_text()
