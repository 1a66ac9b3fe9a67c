"""SIGKILL in the middle of the rollouts, of the rewards, of the policy step: the resumed run repeats what was lost."""

import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from cli_process import logged
from egrl_small import CONFIGS, RETRIEVAL, overlay
from processes import command

STEPS = 12  # of the optimizer: two inner epochs make six steps of EG-RL
EVERY = 4
CURVES = (
    "reward/total/mean", "reward/format/mean", "reward/process/mean", "reward/outcome/mean", "rollout/length",
    "policy/loss", "policy/grad_norm", "policy/kl", "policy/entropy", "train/lr",
)  # fmt: skip


PHASES = ("rollout", "reward", "policy")


def fit(root: Path, *more: str, kills: Sequence[dict] = ()):
    """Start a run; `kills` are the arguments of `KillDuring`."""
    callbacks = [RETRIEVAL, *({"class_path": "killing.KillDuring", "init_args": kill} for kill in kills)]
    settings = overlay({"max_steps": STEPS, "callbacks": callbacks}, checkpoint={"every_n_steps": EVERY})
    path = root.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(settings))
    flags = ["--config", str(CONFIGS / "quickstart/egrl.yaml"), "--config", str(path)]
    return command(["fit", *flags, "--trainer.default_root_dir", str(root), *more], root.with_suffix(".log"))


def finish(process, root: Path, code: int = 0) -> None:
    process.join(timeout=240)
    assert process.exitcode == code, root.with_suffix(".log").read_text()[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 3])
def test_a_run_killed_in_any_phase_goes_on_step_for_step(times, tmp_path, moments):
    """Once in one of the phases by default; once in each in the slow tests."""
    whole, root = tmp_path / "whole", tmp_path / "killed"
    untouched = fit(whole)
    # Any of the steps, in any order of the phases: some lie right behind a checkpoint, some lose a step.
    steps = sorted(moments.sample(range(4, STEPS, 2), times))
    phases = moments.sample(PHASES, times)
    kills = [
        {"phase": phase, "step": step, "marker": str(tmp_path / phase)}
        for phase, step in zip(phases, steps, strict=True)
    ]
    last: list[str] = []
    for phase in phases:
        finish(fit(root, *last, kills=kills), root, -signal.SIGKILL)
        assert (tmp_path / phase).exists()
        last = ["--ckpt_path", "last"]
    finish(fit(root, *last, kills=kills), root)
    finish(untouched, whole)
    assert [path.name for path in root.iterdir()] == ["version_0"]
    for curve in CURVES:
        expected, found = logged(whole / "version_0", curve), logged(root / "version_0", curve)
        assert sorted(expected) == list(range(STEPS // 2)), curve
        assert sorted(found) == sorted(expected), curve
        for step, values in found.items():
            assert set(values) == set(expected[step]), f"{curve} differs at step {step} ({kills})"
    scores = [logged(folder / "version_0", "val/hit@1") for folder in (whole, root)]
    assert scores[0].keys() == scores[1].keys() != set()
    assert len({value for values in logged(whole / "version_0", "policy/loss").values() for value in values}) > 3
