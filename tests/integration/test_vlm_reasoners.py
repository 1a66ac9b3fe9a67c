"""Families of vision-language models as Reasoner: supervised training, EG-RL, resuming and export, from YAML."""

import json

import pytest
import torch
from cli_process import logged
from recipes import CONFIGS, EGRL, SMALL, overlays
from small_sources import LESSONS, MIX

from embedrl.cli import main
from embedrl.commands.export import load_module
from embedrl.commands.reason import load_reasoner
from embedrl.models.vlm.reasoner import VLMReasoner

BACKBONES = CONFIGS / "parts/backbone"
NAMES = ["qwen2_5_vl", "qwen3_5", "internvl", "gemma3", "lfm2_vl", "idefics3"]


def generator(name, **options):
    arguments = {"path": f"embedrl:tiny/{name}", "max_length": 4096, **options}
    return {"class_path": "embedrl.VLMReasoner", "init_args": arguments}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_family_learns_to_write_and_resumes(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    overlay = {
        "trainer": {"callbacks": [], "limit_val_batches": 1},
        "model": {"init_args": {"generator": generator(name, train_vision=True), "max_new_tokens": 4}},
        "data": {"init_args": {"batch_size": 4, "micro_batch_size": 2, **LESSONS}},
    }
    overlay["model"]["init_args"] |= {"schedule": "constant", "warmup_steps": 0}
    flags = ["--config", str(CONFIGS / "quickstart/reasoner.yaml"), *overlays(tmp_path, SMALL, overlay)]

    def fit(folder, *more):
        assert main(["fit", *flags, "--trainer.default_root_dir", folder, *more]) == 0, capsys.readouterr().err
        return tmp_path / folder / "version_0"

    whole = fit("whole")
    losses = logged(whole, "train/loss")
    assert sorted(losses) == [0, 1]
    fit("parts", "--trainer.max_steps", "1")
    assert logged(fit("parts", "--ckpt_path", "last"), "train/loss") == losses
    checkpoint = whole / "checkpoints/last.ckpt"
    assert main(["export", "--checkpoint", str(checkpoint), "--out", "model"]) == 0
    trained, again = load_module(checkpoint).generator, load_reasoner("model")
    assert isinstance(trained, VLMReasoner)
    assert isinstance(again, VLMReasoner)
    start = VLMReasoner(f"embedrl:tiny/{name}")
    start.build()
    both = list(zip(trained.named_parameters(), start.parameters(), again.parameters(), strict=True))
    assert any(not torch.equal(p, old) for (_, p), old, _ in both)
    assert all(torch.equal(p, new) for (_, p), _, new in both)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_family_takes_a_step_of_eg_rl(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    part = str(BACKBONES / f"{name}_tiny.yaml")
    overlay = {
        "trainer": {"limit_val_batches": 0, "callbacks": []},
        "model": {
            "init_args": EGRL["model"]["init_args"]
            | {
                "generator": generator(name, lora={"r": 4, "alpha": 8, "dropout": 0.0, "scope": "language"}),
                "embedder": {"class_path": "embedrl.FrozenEmbedder", "init_args": {"backbone": part}},
                "rewards": str(CONFIGS / "parts/reward/paper.yaml"),
                "group_size": 3,
            }
        },
        "data": {"init_args": {"batch_size": 2, "block_size": 2, "mix": MIX}},
    }
    flags = ["--config", str(CONFIGS / "quickstart/egrl.yaml"), *overlays(tmp_path, SMALL, overlay)]
    assert main(["fit", *flags]) == 0, capsys.readouterr().err
    (run,) = (tmp_path / "runs").rglob("version_0")
    assert sorted(logged(run, "reward/total/mean")) == [0, 1]
    module = load_module(run / "checkpoints/last.ckpt")
    moved = [n for n, p in module.generator.named_parameters() if "lora_B" in n and p.any()]
    assert moved
    starts = json.loads((run / "provenance.json").read_text())["starts"]
    assert starts[0]["finished"]
