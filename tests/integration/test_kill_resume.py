"""SIGKILL at random moments, `--ckpt_path last`: the curve is that of a run nobody touched, step for step."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import yaml
from cli_process import logged, start

ROOT = Path(__file__).parents[2]
STEPS = 20
EVERY = 3  # steps between two checkpoints: a kill loses up to two

OVERLAY = {
    "trainer": {
        "max_steps": STEPS,
        "limit_val_batches": 0,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": None,
        "callbacks": None,
    },
    "checkpoint": {"every_n_steps": EVERY, "monitor": None},
    "model": {
        "init_args": {
            "backbone": {
                "init_args": {
                    "path": "embedrl:tiny",
                    "train_vision": False,
                    "lora": {"r": 4, "alpha": 8, "dropout": 0.1, "scope": "language"},
                }
            }
        }
    },
    "data": {
        "init_args": {
            "batch_size": 4,
            "sub_batch_size": 2,
            "micro_batch_size": 4,
            "batches_per_epoch": 5,  # kills fall in the middle of an epoch and at its end
            "render": {"jitter": 60},
        }
    },
}


@pytest.fixture(scope="module")
def overlay(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("kill") / "overlay.yaml"
    path.write_text(yaml.safe_dump(OVERLAY))
    return path


def fit(overlay: Path, root: Path, *more: str):
    args = ["fit", "--config", str(ROOT / "configs/quickstart/embedder.yaml"), "--config", str(overlay)]
    return start([*args, "--trainer.default_root_dir", str(root), *more], root.parent / f"{root.name}.log")


def finish(process, log: Path) -> None:
    process.join(timeout=240)
    assert process.exitcode == 0, log.read_text()[-3000:] if log.exists() else "no output"


def kill_after(process, run: Path, step: int) -> None:
    """SIGKILL a random moment after a step has been logged."""
    deadline = time.monotonic() + 240
    while not any(key >= step for key in logged(run, "train/loss")):
        assert process.is_alive(), "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(random.random() * 0.3)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def check(tmp_path: Path, overlay: Path, kills: list[int], *more: str) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(fit(overlay, whole, *more), tmp_path / "whole.log")
    last = ()
    for step in kills:
        kill_after(fit(overlay, broken, *more, *last), broken / "version_0", step)
        last = ("--ckpt_path", "last")
    finish(fit(overlay, broken, *more, *last), tmp_path / "broken.log")
    assert [path.name for path in broken.iterdir()] == ["version_0"], "a resumed run goes on in its folder"
    for tag in ("train/loss", "train/grad_norm", "train/lr"):
        expected, found = logged(whole / "version_0", tag), logged(broken / "version_0", tag)
        assert sorted(found) == sorted(expected) == list(range(STEPS))
        for step, values in found.items():
            assert set(values) == set(expected[step]), f"{tag} differs at step {step}"


def test_a_killed_run_goes_on_step_for_step(tmp_path, overlay):
    check(tmp_path, overlay, [random.randrange(EVERY, STEPS - 8)])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_three_kills(tmp_path, overlay, workers):
    kills = sorted(random.sample(range(EVERY, STEPS - 8), 3))
    check(tmp_path, overlay, kills, "--data.num_workers", str(workers))
