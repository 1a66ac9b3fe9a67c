"""Training with latent steps: the curriculum, and exact resumption under it."""

import signal
from pathlib import Path

import pytest
import torch
import yaml
from cli_process import logged
from processes import command, finish, launch, weights
from unified_runs import BACKBONE, recipe

import embedrl
from embedrl.cli import main
from embedrl.data.render import RenderOptions, render
from embedrl.errors import ConfigError
from embedrl.training.latent_curriculum import LatentCurriculum
from embedrl.training.trained_model import load_embedder, load_module

LATENT = {
    "model": {"latent_curriculum": {"shares": [0.0, 0.5, 1.0]}},
    "data": {"render": {"cues": "printed"}},
}
CLASS = "embedrl.QwenVLLatent"


def latent_recipe(folder: Path, trainer=None, backbone=None, **more) -> Path:
    """A recipe with two latent steps."""
    changes = {name: LATENT.get(name, {}) | more.pop(name, {}) for name in ("model", "data")}
    path = recipe(folder, {"limit_val_batches": 0} | (trainer or {}), **changes, **more)
    content = yaml.safe_load(path.read_text())
    own = content["model"]["init_args"]["backbone"]
    own["class_path"], own["init_args"]["latent_steps"] = CLASS, 2
    own["init_args"] |= backbone or {}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.mark.parametrize("shares", [[], [0.0, 0.5], [0.5, 0.0, 1.0], [-0.5, 1.0], [0.0, 1.5]])
def test_shares_are_in_order_and_end_with_all(shares):
    with pytest.raises(ConfigError, match=r"model\.latent_curriculum\.shares"):
        LatentCurriculum(shares)


def test_a_run_of_other_lengths_has_the_same_stages():
    curriculum = LatentCurriculum([0.0, 0.5, 1.0])
    assert [curriculum.steps(step, 7, 2) for step in range(7)] == [0, 0, 0, 1, 1, 2, 2]
    assert [curriculum.steps(step, 1, 2) for step in range(3)] == [0, 2, 2]


@pytest.mark.slow
def test_a_run_killed_and_resumed_is_the_run(tmp_path):
    """SIGKILL after the fourth step of six, in the second stage; the checkpoint is of the third; with dropout."""
    more = {"checkpoint": {"every_n_steps": 3}}
    kill = {"class_path": "killing.KillAt", "init_args": {"step": 4, "marker": str(tmp_path / "killed")}}
    whole = latent_recipe(tmp_path / "whole", {"max_steps": 6}, **more)
    broken = latent_recipe(tmp_path / "broken", {"max_steps": 6, "callbacks": [kill]}, **more)
    untouched = command(["fit", "--config", str(whole)], tmp_path / "whole.log")
    killed = command(["fit", "--config", str(broken)], tmp_path / "broken.log")
    killed.join(240)
    assert killed.exitcode == -signal.SIGKILL, (tmp_path / "broken.log").read_text()[-3000:]
    resumed = command(["fit", "--config", str(broken), "--ckpt_path", "last"], tmp_path / "broken.log")
    for process in (untouched, resumed):
        process.join(240)
        assert process.exitcode == 0, (tmp_path / "broken.log").read_text()[-3000:]
    folders = [path.parent / "runs/version_0" for path in (whole, broken)]
    ours, theirs = (weights(folder / "checkpoints/last.ckpt") for folder in folders)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    for folder in folders:
        steps = logged(folder, "train/latent_steps")
        assert [steps[step][0] for step in range(6)] == [0, 0, 1, 1, 2, 2]
        assert all(len(set(values)) == 1 for values in steps.values())
    tokens = [max(values) for _, values in sorted(logged(folders[0], "train/tokens_query").items())]
    assert tokens[0] > tokens[2] > tokens[4]
    assert tokens[4] == tokens[5] == 4  # of four queries, `<gen_emb>` alone


@pytest.mark.slow
def test_gradient_caching_changes_nothing_and_a_checkpoint_embeds(tmp_path):
    off = {"lora": BACKBONE["init_args"]["lora"] | {"dropout": 0.0}}
    runs = []
    for name, cached, size in (("small", True, 4), ("whole", False, 64)):
        path = latent_recipe(
            tmp_path / name,
            {"max_steps": 3},
            off,
            model={"gradient_cache": cached, "gradient_conflict_every": 1},
            data={"micro_batch_size": size},
        )
        assert main(["fit", "--config", str(path)]) == 0
        runs.append(path.parent / "runs/version_0")
    ours, theirs = (weights(run / "checkpoints/last.ckpt") for run in runs)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-5, rtol=0)
    for curve in ("train/loss", "train/conflict/all"):
        first, second = (logged(run, curve) for run in runs)
        assert sorted(first) == [0, 1, 2]
        assert all(first[step] == pytest.approx(second[step], abs=1e-3) for step in first)
    checkpoint = runs[0] / "checkpoints/last.ckpt"
    assert load_embedder(str(checkpoint)).latent_steps == 2
    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "model")]) == 0
    assert 'render=RenderOptions(tcot="latent")' in (tmp_path / "model/README.md").read_text()
    latent = RenderOptions(tcot="latent")
    fast, thoughtful = (
        embedrl.Embedder.from_pretrained(tmp_path / "model", **more).encode(["a red star"])
        for more in ({}, {"render": latent})
    )
    model = load_embedder(str(checkpoint))
    with torch.no_grad():
        chats = [render(embedrl.Side("a red star"), options) for options in (RenderOptions("none"), latent)]
        for chat, vectors in zip(chats, (fast, thoughtful), strict=True):
            own = model.encode(model.preprocessor()([chat]))
            torch.testing.assert_close(torch.as_tensor(vectors), own, atol=1e-5, rtol=0)
    assert list(load_module(checkpoint).latent_curriculum.shares) == [0.0, 0.5, 1.0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"rationale_for_contrast": "self"}}, "give way to latent steps: leave it out"),
        ({"model": {"latent_curriculum": {"shares": [0.0, 0.5]}}}, "model.latent_curriculum.shares"),
        ({"backbone": {"latent_steps": -1}}, "backbone.latent_steps is -1"),
        ({"backbone": {"latent_steps": 0}, "data": {"render": {"tcot": "latent"}}}, "takes no latent steps"),
        ({"data": {"render": {"cues": "on"}}}, "which latent steps do not name: set render.cues: printed"),
    ],
)
def test_bad_recipes_get_one_line(changes, message, tmp_path, capsys):
    assert main(["fit", "--config", str(latent_recipe(tmp_path, **changes))]) != 0
    [line] = [text for text in capsys.readouterr().err.splitlines() if text.startswith("embedrl: error: ")]
    assert message in line


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["ddp", {"class_path": "embedrl.distributed.FSDP2Strategy"}], ids=["ddp", "fsdp2"])
def test_two_processes_equal_one(strategy, tmp_path):
    """A layer runs several times in one pass: for the prompt, each latent step, and the words that are left."""
    off = {"lora": BACKBONE["init_args"]["lora"] | {"dropout": 0.0}}
    sgd = {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}}}
    half = {"latent_curriculum": {"shares": [0.5, 1.0]}} | sgd
    one = latent_recipe(tmp_path / "one", {"max_steps": 1}, off, model=half)
    assert main(["fit", "--config", str(one)]) == 0
    both = {"max_steps": 1, "devices": 2, "strategy": strategy}
    two = latent_recipe(tmp_path / "two", both, off, model=half)
    finish(launch(Path(embedrl.__file__).parent / "__main__.py", "fit", "--config", two, log=tmp_path), tmp_path)
    ours, theirs = (weights(path.parent / "runs/version_0/checkpoints/last.ckpt") for path in (one, two))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-5, rtol=0)
    moved = [value.abs().max() for name, value in ours.items() if "lora_B" in name]  # they begin at 0
    assert min(moved) > 1e-4
