"""SIGKILL at drawn moments, `--ckpt_path last`: the curve is that of a run nobody touched, step for step."""

import os
import signal
import time
from pathlib import Path

import pytest
import yaml
from cli_process import logged
from processes import command
from small_sources import world

ROOT = Path(__file__).parents[2]
STEPS = 20
EVERY = 3  # steps between two checkpoints; a validation, every 4, writes one as well

OVERLAY = {
    "trainer": {
        "max_steps": STEPS,
        "val_check_interval": 4,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": None,
        "callbacks": None,
    },
    "checkpoint": {"every_n_steps": EVERY, "monitor": "val/hit@1"},
    "model": {
        "init_args": {
            "schedule": "constant_with_warmup",  # the same for runs of different length
            "backbone": {
                "init_args": {
                    "path": "embedrl:tiny",
                    "train_vision": False,
                    "lora": {"r": 4, "alpha": 8, "dropout": 0.1, "scope": "language"},
                }
            },
        }
    },
    "data": {
        "init_args": {
            "mix": [
                {"source": world("composed", negatives=1)},
                {"source": world("vqa")},
                {"source": world("video_qa")},
            ],
            "batch_size": 4,
            "sub_batch_size": 2,
            "micro_batch_size": 4,
            "batches_per_epoch": 5,  # kills fall in the middle of an epoch and at its end
            "render": {"jitter": 60},
            "val": [
                {
                    "class_path": "embedrl.data.world.WorldTasks",
                    "init_args": {"split": "val", "size": 4, "families": ["vqa"]},
                }
            ],
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
    return command([*args, "--trainer.default_root_dir", str(root), *more], root.parent / f"{root.name}.log")


def finish(process, log: Path) -> None:
    process.join(timeout=240)
    assert process.exitcode == 0, log.read_text()[-3000:] if log.exists() else "no output"


def kill_after(process, run: Path, step: int, delay: float) -> None:
    """SIGKILL some seconds after a step has been logged."""
    deadline = time.monotonic() + 240
    while not any(key >= step for key in logged(run, "train/loss")):
        assert process.is_alive(), "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(delay)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.fixture(scope="module")
def whole(tmp_path_factory, overlay) -> Path:
    """The folder of a run that nobody touched."""
    root = tmp_path_factory.mktemp("whole") / "runs"
    finish(fit(overlay, root), root.parent / "runs.log")
    return root / "version_0"


def check(whole: Path, root: Path) -> None:
    """A run in pieces logged what the whole one did, step for step, in one folder."""
    assert [path.name for path in root.iterdir()] == ["version_0"]
    for tag in ("train/loss", "train/grad_norm", "train/lr", "val/hit@1", "val/ndcg@5"):
        expected, found = logged(whole, tag), logged(root / "version_0", tag)
        assert sorted(found) == sorted(expected)
        for step, values in found.items():
            assert set(values) == set(expected[step]), f"{tag} differs at step {step}"
    assert sorted(logged(whole, "train/loss")) == list(range(STEPS))


def kill_and_resume(whole: Path, overlay: Path, root: Path, moments, times: int, *more: str) -> None:
    kills = {step: 0.3 * moments.random() for step in sorted(moments.sample(range(EVERY, STEPS - 8), times))}
    print(f"kills, seconds after a step: {kills}")
    last: tuple[str, ...] = ()
    for step, delay in kills.items():
        kill_after(fit(overlay, root, *more, *last), root / "version_0", step, delay)
        last = ("--ckpt_path", "last")
    finish(fit(overlay, root, *more, *last), root.parent / f"{root.name}.log")
    check(whole, root)


def test_a_killed_run_goes_on_step_for_step(whole, overlay, tmp_path, moments):
    kill_and_resume(whole, overlay, tmp_path / "killed", moments, 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("workers", [0, 2])
def test_three_kills(whole, overlay, tmp_path, workers, moments):
    kill_and_resume(whole, overlay, tmp_path / "killed", moments, 3, "--data.num_workers", str(workers))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("steps", [8, 9, 10, 11, 20])
def test_a_finished_run_goes_on(whole, overlay, tmp_path, steps):
    """It ended after a validation (8), at a checkpoint (9), with an epoch (10), at neither (11), or not early (20)."""
    root = tmp_path / "longer"
    finish(fit(overlay, root, "--trainer.max_steps", str(steps)), tmp_path / "longer.log")
    finish(fit(overlay, root, "--ckpt_path", "last"), tmp_path / "longer.log")
    check(whole, root)
