"""Signals: a run that is told to stop saves a whole step and says so by its exit code; no traceback."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from cli_process import logged
from ports import launching
from processes import command, launch, start
from small_sources import world

import embedrl
from embedrl.training.stopping import StopOnSignal

ROOT = Path(__file__).parents[2]
PATIENCE = 240
OVERLAY = {
    "trainer": {
        "max_steps": 10_000,
        "val_check_interval": None,
        "limit_val_batches": 0,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": None,
    },
    "checkpoint": {"every_n_steps": 5000},
    "model": {
        "init_args": {
            "schedule": "constant_with_warmup",
            "backbone": {"init_args": {"path": "embedrl:tiny", "train_vision": False}},
        }
    },
    "data": {
        "init_args": {
            "mix": [{"source": world("vqa")}],
            "batch_size": 2,
            "sub_batch_size": 2,
            "micro_batch_size": 2,
            "val": [],
            "test": [],
        }
    },
}


def words(folder: Path, *more: str) -> list[str]:
    overlay = folder / "overlay.yaml"
    overlay.write_text(yaml.safe_dump(OVERLAY))
    files = [word for path in (ROOT / "configs/quickstart/embedder.yaml", overlay) for word in ("--config", str(path))]
    return ["fit", *files, "--trainer.default_root_dir", str(folder / "runs"), *more]


def until_step(process, run: Path, step: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while not any(key >= step for key in logged(run, "train/loss")):
        assert process.is_alive(), "the run ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def exit_code(process) -> int:
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        pytest.fail("it does not stop")
    return process.exitcode


SIGNALS = [
    (signal.SIGTERM, 143, False, ()),
    (signal.SIGINT, 130, False, ()),
    (signal.SIGTERM, 143, True, ("--data.num_workers", "2")),  # to the whole process group, workers included
    pytest.param(signal.SIGINT, 130, True, ("--data.num_workers", "2"), marks=pytest.mark.slow),
    pytest.param(signal.SIGTERM, 143, False, ("--trainer.accumulate_grad_batches", "3"), marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("number", "code", "group", "more"), SIGNALS)
def test_a_signal_saves_the_step_and_is_no_success(tmp_path, number, code, group, more):
    run, log = tmp_path / "runs/version_0", tmp_path / "log"
    process = start(_in_a_group, (words(tmp_path, *more),), log) if group else command(words(tmp_path, *more), log)
    until_step(process, run, 2)
    (os.killpg if group else os.kill)(process.pid, number)
    assert exit_code(process) == code, log.read_text()[-3000:]
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    steps = sorted(logged(run, "train/loss"))
    assert saved["global_step"] == len(steps) == steps[-1] + 1  # every step that is saved is logged
    assert f"stopped by {number.name} after step {len(steps)}: saved" in log.read_text()
    assert "Traceback" not in log.read_text()


def _in_a_group(arguments: list[str]) -> None:
    from embedrl.cli import main

    os.setpgid(0, 0)
    sys.exit(main(arguments))


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize(("number", "ranks"), [(signal.SIGTERM, [1]), (signal.SIGTERM, [0]), (signal.SIGINT, [0, 1])])
def test_a_signal_to_any_process_stops_all_of_them(tmp_path, number, ranks):
    more = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
    main = Path(embedrl.__file__).parent / "__main__.py"
    processes = launch(main, *words(tmp_path, *more), log=tmp_path)
    run = tmp_path / "runs/version_0"
    until_step(processes[0], run, 2)
    for rank in ranks:
        os.kill(processes[rank].pid, number)
    codes = [exit_code(process) for process in processes]
    told = (tmp_path / "__main__.0.log").read_text()
    assert codes[0] == 128 + (number if 0 in ranks else signal.SIGTERM), told[-3000:]
    assert all(code > 128 for code in codes)
    steps = sorted(logged(run, "train/loss"))
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == len(steps)
    assert told.count("stopped by") == 1


@pytest.mark.slow
@pytest.mark.dist
def test_a_signal_to_a_process_that_lightning_started_stops_both(tmp_path):
    more = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
    command_line = [sys.executable, "-m", "embedrl", *words(tmp_path, *more)]
    with (tmp_path / "log").open("w") as log:
        environment = launching()
        first = subprocess.Popen(command_line, stdout=log, stderr=log, env=environment)
    try:
        deadline = time.monotonic() + PATIENCE
        while not any(step >= 2 for step in logged(tmp_path / "runs/version_0", "train/loss")):
            assert first.poll() is None, (tmp_path / "log").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.2)
        [second] = [pid for pid in _children(first.pid) if b"embedrl" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(second, signal.SIGTERM)
        assert first.wait(60) == 143, (tmp_path / "log").read_text()[-3000:]
        until = time.monotonic() + 30
        while _runs(second) and time.monotonic() < until:
            time.sleep(0.2)
        assert not _runs(second)
    finally:
        first.kill()
    steps = sorted(logged(tmp_path / "runs/version_0", "train/loss"))
    saved = torch.load(tmp_path / "runs/version_0/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == len(steps)


def _runs(pid: int) -> bool:
    """Whether it is there, and no zombie that nobody has asked for its exit code."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def _children(pid: int) -> list[int]:
    return [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_one_that_nobody_touched(tmp_path):
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    for folder in (whole, pieces):
        folder.mkdir()
    assert exit_code(command(words(whole, "--trainer.max_steps", "12"), tmp_path / "whole.log")) == 0
    process = command(words(pieces, "--trainer.max_steps", "12"), tmp_path / "pieces.log")
    until_step(process, pieces / "runs/version_0", 3)
    os.kill(process.pid, signal.SIGTERM)
    assert exit_code(process) == 143
    last = ("--trainer.max_steps", "12", "--ckpt_path", "last")
    assert exit_code(command(words(pieces, *last), tmp_path / "pieces.log")) == 0
    runs = whole / "runs/version_0", pieces / "runs/version_0"
    assert logged(runs[0], "train/loss") == logged(runs[1], "train/loss")


@pytest.mark.slow
def test_the_second_signal_stops_at_once_and_spoils_nothing(tmp_path):
    run, log = tmp_path / "runs/version_0", tmp_path / "log"
    more = ("--trainer.accumulate_grad_batches", "100000", "--checkpoint.every_n_steps", "1")
    process = command(words(tmp_path, *more), log)
    deadline = time.monotonic() + PATIENCE
    while not list(run.glob("events.out.tfevents.*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(5)
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(1)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGTERM)
    assert exit_code(process) == 143
    assert not list(run.rglob("*.ckpt*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("stage", ["on_validation_start", "on_test_start", "on_predict_start", "on_sanity_check_start"])
def test_where_nothing_is_trained_a_signal_stops_at_once(capsys, number, code, stage):
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        getattr(StopOnSignal(), stage)(None, None)
        with pytest.raises(SystemExit) as stopped:
            signal.raise_signal(number)
        assert stopped.value.code == code
        assert capsys.readouterr().err == f"embedrl: stopped by {number.name}\n"
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@pytest.mark.slow
def test_runs_at_once_in_one_folder_do_not_meet(tmp_path):
    processes = [command(words(tmp_path, "--trainer.max_steps", "3"), tmp_path / f"log{i}") for i in range(3)]
    assert [exit_code(process) for process in processes] == [0, 0, 0]
    runs = sorted((tmp_path / "runs").iterdir())
    assert [run.name for run in runs] == ["version_0", "version_1", "version_2"]
    for run in runs:
        assert sorted(logged(run, "train/loss")) == [0, 1, 2]
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
        [begun] = json.loads((run / "provenance.json").read_text())["starts"]
        assert begun["finished"]


@pytest.mark.slow
def test_a_run_that_goes_on_elsewhere_is_not_resumed(tmp_path):
    process = command(words(tmp_path, "--checkpoint.every_n_steps", "2"), tmp_path / "log")
    until_step(process, tmp_path / "runs/version_0", 4)
    second = command(words(tmp_path, "--ckpt_path", "last"), tmp_path / "second")
    assert exit_code(second) == 2
    assert "version_0: another process writes there" in (tmp_path / "second").read_text()
    assert process.is_alive()
    os.kill(process.pid, signal.SIGTERM)
    assert exit_code(process) == 143


INTERRUPTED = [
    ("annotate", "the answers so far are kept in the journal"),
    ("filter", "the answers so far are kept in the journal"),
    ("eval", "the vectors and T-CoTs so far are kept in --out"),
    ("fit", "--ckpt_path last"),
    ("split", "nothing was written"),
    ("data world", "nothing was written"),
]


@pytest.mark.parametrize(("name", "told"), INTERRUPTED)
def test_ctrl_c_is_one_line_that_says_what_is_kept(monkeypatch, capsys, name, told):
    from embedrl import cli

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    assert cli.main(name.split()) == 130
    written = capsys.readouterr().err.strip()
    assert told in written
    assert written.count("\n") == 0
