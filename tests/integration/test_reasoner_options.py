"""The switches of Reasoner SFT on the quickstart's recipe: what each trains, and that it changes nothing else."""

import functools

import pytest
import torch
import yaml
from cli_process import logged
from recipes import CONFIGS, SMALL
from small_sources import LESSONS

from embedrl.cli import main

RECIPE = CONFIGS / "quickstart" / "reasoner.yaml"
GENERATOR = "--model.init_args.generator.init_args"
OVERLAY = {
    "trainer": {**SMALL["trainer"], "limit_val_batches": 0, "callbacks": []},
    "data": {"init_args": {"batch_size": 6, "micro_batch_size": 6, **LESSONS}},
}
FULL = [f"{GENERATOR}.train_vision", "false"]
LORA = [*FULL, f"{GENERATOR}.lora"]
OPTIONS = {
    "all": [],
    "language": FULL,
    "lora": [*LORA, "{r: 4, alpha: 8, dropout: 0.0}"],
    "lora with vision": [*LORA, "{r: 4, alpha: 8, dropout: 0.0, scope: language+vision}"],
    "checkpointing": [f"{GENERATOR}.gradient_checkpointing", "true"],
    "checkpointing, lora": [
        *LORA, "{r: 4, alpha: 8, dropout: 0.0}", f"{GENERATOR}.gradient_checkpointing", "true",
    ],
    "short micro-batches": ["--data.init_args.micro_batch_size", "2"],
}  # fmt: skip


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    """Trains two steps with the flags of an option: folder of the run, names of what was saved."""

    @functools.cache
    def run(option):
        folder = tmp_path_factory.mktemp("run")
        (folder / "small.yaml").write_text(yaml.safe_dump(OVERLAY))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            args = ["--config", str(RECIPE), "--config", str(folder / "small.yaml"), *OPTIONS[option]]
            assert main(["fit", *args]) == 0
        (version,) = folder.rglob("version_0")
        saved = torch.load(version / "checkpoints" / "last.ckpt", weights_only=True)
        return version, set(saved["state_dict"])

    return run


@pytest.mark.parametrize(
    ("option", "vision", "lora"),
    [
        ("all", True, False),
        ("language", False, False),
        ("lora", False, True),
        pytest.param("lora with vision", True, True, marks=pytest.mark.slow),
        pytest.param("checkpointing", True, False, marks=pytest.mark.slow),
        ("checkpointing, lora", False, True),
        ("short micro-batches", True, False),
    ],
)
def test_an_option_trains_what_it_says(fit, option, vision, lora):
    run, saved = fit(option)
    losses = logged(run, "train/loss")
    assert sorted(losses) == [0, 1]
    assert all(0 < value < 20 for step in losses.values() for value in step)
    assert any("visual" in name for name in saved) == vision
    assert any("language_model" in name for name in saved)
    assert {"lora" in name for name in saved} == {lora}


@pytest.mark.parametrize(
    ("option", "plain"),
    [
        pytest.param("checkpointing", "all", marks=pytest.mark.slow),
        ("checkpointing, lora", "lora"),
        ("short micro-batches", "all"),
    ],
)
def test_how_a_step_is_computed_changes_neither_loss_nor_gradient(fit, option, plain):
    for name in ("train/loss", "train/grad_norm"):
        found, expected = logged(fit(option)[0], name), logged(fit(plain)[0], name)
        for step in (0, 1):
            assert found[step] == pytest.approx(expected[step], rel=1e-4), name
