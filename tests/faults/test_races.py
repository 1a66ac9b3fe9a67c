"""Runs that start at once, and folders of other tools beside: nothing is lost or mixed up."""

import multiprocessing
from pathlib import Path

import pytest

from embedrl.errors import CheckpointError, ConfigError
from embedrl.training.run_dir import find_checkpoint
from embedrl.training.run_folder import claim_version, lock_run, next_version, unlock_run, version_of

SPAWNED = multiprocessing.get_context("fork")


def _claim(root: Path, begin, answers) -> None:
    begin.wait()
    answers.put(claim_version("version", root))


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path):
    begin, answers = SPAWNED.Barrier(6), SPAWNED.Queue()
    processes = [SPAWNED.Process(target=_claim, args=(tmp_path, begin, answers)) for _ in range(6)]
    for process in processes:
        process.start()
    names = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(names) == [f"version_{i}" for i in range(6)]


def _locks(folder: Path, answers) -> None:
    try:
        lock_run(folder)
        answers.put("locked")
    except ConfigError as error:
        answers.put(str(error))


def locked_elsewhere(folder: Path) -> str:
    answers = SPAWNED.Queue()
    process = SPAWNED.Process(target=_locks, args=(folder, answers))
    process.start()
    answer = answers.get(timeout=60)
    process.join()
    return answer


def test_one_process_at_a_time_writes_to_a_run(tmp_path):
    lock_run(tmp_path)
    assert f"{tmp_path}: another process writes there" in locked_elsewhere(tmp_path)
    unlock_run(tmp_path)
    assert locked_elsewhere(tmp_path) == "locked"
    assert locked_elsewhere(tmp_path) == "locked"  # the process before has ended, and its lock with it


OTHER_NAMES = ["version_0_bak2", "version_7x", "version_-1", "version_²", "version_", "version_3.old", ".version_9"]


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_folders_of_other_names_are_no_runs(tmp_path, name):
    copy = tmp_path / name / "checkpoints/last.ckpt"
    copy.parent.mkdir(parents=True)
    copy.touch()
    assert next_version("version", tmp_path) == "version_0"
    assert version_of(str(copy), tmp_path) is None
    with pytest.raises(CheckpointError, match=r"no last\.ckpt"):
        find_checkpoint("last", tmp_path)
    ours = tmp_path / "version_4/checkpoints/last.ckpt"
    ours.parent.mkdir(parents=True)
    ours.touch()
    assert next_version("version", tmp_path) == "version_5"
    assert find_checkpoint("last", tmp_path) == str(ours)
