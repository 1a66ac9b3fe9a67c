"""Two-tower models and encoders train, resume, are exported and loaded again, through the command line."""

import subprocess
import sys

import pytest
import torch
from cli_process import logged
from qwen_helpers import EMB, image, text, user, video
from recipes import CONFIGS, EMBEDDER, QUICKSTART, SMALL, overlays

from embedrl.cli import main
from embedrl.commands.export import load_module
from embedrl.models.two_towers.backbone import TwoTowerBackbone
from embedrl.models.two_towers.tiny import FAMILIES
from embedrl.models.vlm.encoder import EncoderBackbone

CHATS = [[user(image(0), text("the red star")), EMB], [user(text("a text")), EMB], [user(video(1, frames=4)), EMB]]
STEADY = {
    "model": {"init_args": {"schedule": "constant", "warmup_steps": 0}},
    "trainer": {"callbacks": [], "val_check_interval": 2},
}
RELOAD = """
import sys, torch
from embedrl.models.exported import load_backbone
chats, expected = torch.load(sys.argv[2], weights_only=False)
backbone = load_backbone(sys.argv[1])
with torch.no_grad():
    torch.testing.assert_close(backbone(backbone.preprocessor()(chats)), expected, atol=1e-5, rtol=0)
print(type(backbone).__name__)
"""


KINDS = {**dict.fromkeys(FAMILIES, TwoTowerBackbone), "embedding_gemma2": EncoderBackbone}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_family_trains_resumes_and_is_exported(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    part = CONFIGS / f"parts/backbone/{name}_tiny.yaml"
    flags = ["--config", str(QUICKSTART), "--model.backbone", str(part)]
    flags += overlays(tmp_path, SMALL, {"data": EMBEDDER["data"]}, STEADY)

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
    trained, resumed = (load_module(run / "checkpoints/last.ckpt").backbone.eval() for run in (whole, parts))
    kind = KINDS[name]
    start = kind(f"embedrl:tiny/{name}")
    start.build()
    before = dict(start.named_parameters())
    changed = {n.split(".")[1] for n, p in trained.named_parameters() if not torch.equal(p, before[n])}
    towers = {"text_model", "vision_model"} if kind is TwoTowerBackbone else {"language_model", "vision_tower"}
    assert towers <= changed
    with torch.no_grad():
        expected = trained(trained.preprocessor()(CHATS))
        assert torch.equal(resumed(resumed.preprocessor()(CHATS)), expected)
    out = tmp_path / "model"
    assert main(["export", "--checkpoint", str(whole / "checkpoints/last.ckpt"), "--out", str(out)]) == 0
    assert {"model.safetensors", "config.json", "embedrl_config.json", "README.md"} <= {p.name for p in out.iterdir()}
    torch.save((CHATS, expected), tmp_path / "expected.pt")
    fresh = [sys.executable, "-c", RELOAD, str(out), str(tmp_path / "expected.pt")]
    done = subprocess.run(fresh, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == kind.__name__


@pytest.mark.slow
def test_an_adapter_trains_and_is_scored(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lora = {"trainable": "lora", "lora": {"r": 4, "alpha": 8, "dropout": 0.05, "scope": "language+vision+projector"}}
    options = {"model": {"init_args": {"gradient_cache": True, "backbone": {"init_args": lora}}}}
    flags = overlays(tmp_path, SMALL, {"data": EMBEDDER["data"]}, STEADY, options)
    part = str(CONFIGS / "parts/backbone/siglip2_tiny.yaml")
    args = ["fit", "--config", str(QUICKSTART), "--model.backbone", part, *flags]
    assert main([*args, "--model.init_args.optimizer", "torch.optim.AdamW"]) == 0, capsys.readouterr().err
    (run,) = (tmp_path / "runs").rglob("version_0")
    checkpoint = str(run / "checkpoints/last.ckpt")
    assert main(["export", "--checkpoint", checkpoint, "--out", "adapter", "--adapter", "true"]) == 0
    tasks = {"tasks": EMBEDDER["data"]["init_args"]["val"]}
    flags = ["--config", str(CONFIGS / "eval/world.yaml"), *overlays(tmp_path, tasks)]
    for place, out in ((checkpoint, "a"), ("adapter", "b")):
        assert main(["eval", *flags, "--checkpoint", place, "--out", out]) == 0, capsys.readouterr().err
    reports = [(tmp_path / out / "scores.json").exists() or (tmp_path / out / "report.json").exists() for out in "ab"]
    assert all(reports)
