"""Every family of vision-language models trains, resumes, is exported and loaded again, from its own YAML."""

import json

import pytest
import torch
from cli_process import logged
from plain_vlm import CHATS, FAMILIES, families
from recipes import CONFIGS, EMBEDDER, PARTS, QUICKSTART, SMALL, overlays
from sentence_transformers import SentenceTransformer

from embedrl.cli import main
from embedrl.commands.export import load_module
from embedrl.models.vlm.backbone import VLMBackbone

BACKBONES = CONFIGS / "parts/backbone"
STEADY = {
    "model": {"init_args": {"schedule": "constant", "warmup_steps": 0}},
    "trainer": {"callbacks": [], "val_check_interval": 2},
}


@torch.no_grad()
def vectors(backbone):
    return backbone.eval()(backbone.preprocessor()(CHATS))


def test_every_family_has_a_part():
    assert {path.stem.removesuffix("_tiny") for path in PARTS if path.parent == BACKBONES} >= set(FAMILIES)


@families(default=())
def test_a_family_trains_resumes_and_is_exported(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = {"data": EMBEDDER["data"]}
    flags = ["--config", str(QUICKSTART), "--model.backbone", str(BACKBONES / f"{name}_tiny.yaml")]
    flags += overlays(tmp_path, SMALL, data, STEADY)

    def fit(folder, *more):
        args = ["fit", *flags, "--trainer.default_root_dir", folder, *more]
        assert main(args) == 0, capsys.readouterr().err
        return tmp_path / folder / "version_0"

    whole = fit("whole")
    losses = logged(whole, "train/loss")
    assert sorted(losses) == [0, 1]
    fit("parts", "--trainer.max_steps", "1")
    parts = fit("parts", "--ckpt_path", "last")
    assert logged(parts, "train/loss") == losses
    trained, resumed = (load_module(run / "checkpoints/last.ckpt").backbone for run in (whole, parts))
    assert isinstance(trained, VLMBackbone)
    start = VLMBackbone(f"embedrl:tiny/{name}")
    start.build()
    changed = [
        n for (n, p), q in zip(trained.named_parameters(), start.parameters(), strict=True) if not torch.equal(p, q)
    ]
    for place in ("language_model", "vision", "visual"):
        there = [n for n, _ in trained.named_parameters() if place in n]
        assert not there or set(there) & set(changed), place
    expected = vectors(trained)
    assert torch.equal(vectors(resumed), expected)
    out = tmp_path / "model"
    assert main(["export", "--checkpoint", str(whole / "checkpoints/last.ckpt"), "--out", str(out)]) == 0
    again = VLMBackbone(str(out), max_length=4096)
    again.build()
    torch.testing.assert_close(vectors(again), expected, atol=1e-5, rtol=0)


@families(default=())
def test_sentence_transformers_loads_an_export(name, tmp_path):
    backbone = VLMBackbone(f"embedrl:tiny/{name}")
    backbone.build()
    backbone.export(tmp_path)
    if not backbone.differences.ends_at_emb:
        assert name == "paligemma"
        assert not (tmp_path / "modules.json").exists()
        return
    model = SentenceTransformer(str(tmp_path), device="cpu")
    chats = [CHATS[0], CHATS[1], CHATS[3]]
    found = model.encode([[{**m, "content": list(m["content"])} for m in chat] for chat in chats])
    with torch.no_grad():
        expected = backbone.eval()(backbone.preprocessor()(chats))
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=0)
    assert json.loads((tmp_path / "1_Pooling/config.json").read_text())["embedding_dimension"] == expected.shape[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3_5", "gemma4", "idefics3"])
def test_a_recipe_of_lora_trains_through_the_command_line(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lora = {"lora": {"r": 4, "alpha": 8, "dropout": 0.05, "scope": "all-linear"}, "train_vision": False}
    options = {"model": {"init_args": {"gradient_cache": True, "backbone": {"init_args": lora}}}}
    options["model"]["init_args"]["backbone"]["init_args"] |= {"gradient_checkpointing": True}
    flags = overlays(tmp_path, SMALL, {"data": EMBEDDER["data"]}, STEADY, options)
    args = ["--config", str(QUICKSTART), "--model.backbone", str(BACKBONES / f"{name}_tiny.yaml"), *flags]
    assert main(["fit", *args, "--model.init_args.optimizer", "torch.optim.AdamW"]) == 0, capsys.readouterr().err
    (run,) = (tmp_path / "runs").rglob("version_0")
    backbone = load_module(run / "checkpoints/last.ckpt").backbone
    backbone.export(tmp_path / "adapter", merge=False)
    adapted = VLMBackbone(str(tmp_path / "adapter"))
    adapted.build()
    torch.testing.assert_close(vectors(adapted), vectors(backbone), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_an_embedder_of_a_family_is_scored(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tasks = {"tasks": EMBEDDER["data"]["init_args"]["val"]}
    flags = ["--config", str(CONFIGS / "eval/world.yaml"), "--backbone", str(BACKBONES / "internvl_tiny.yaml")]
    assert main(["eval", *flags, *overlays(tmp_path, tasks)]) == 0, capsys.readouterr().err
    backbone = VLMBackbone("embedrl:tiny/internvl")
    backbone.build()
    backbone.export(tmp_path / "model")
    flags = ["--config", str(CONFIGS / "eval/world.yaml"), "--checkpoint", "model", "--out", "runs/of_the_export"]
    assert main(["eval", *flags, *overlays(tmp_path, tasks)]) == 0, capsys.readouterr().err
    reports = [
        json.loads((tmp_path / f"runs/{run}/report.json").read_text()) for run in ("eval_world", "of_the_export")
    ]
    metrics = [[result["metrics"] for result in report["sets"]] for report in reports]
    assert metrics[0] == metrics[1]
    assert metrics[0]
