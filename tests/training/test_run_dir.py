"""Run folders: which checkpoint `last` means, and that one is never half written."""

import os
from pathlib import Path

import pytest
import torch

from embedrl.errors import CheckpointError
from embedrl.training.run_dir import AtomicCheckpointIO, CheckpointOptions, find_checkpoint
from embedrl.training.run_folder import next_version, version_of


def checkpoint(root: Path, version: str, age: int, name: str = "last") -> Path:
    path = root / version / "checkpoints" / f"{name}.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(version)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def test_last_is_the_newest_by_time(tmp_path):
    newest = checkpoint(tmp_path, "version_1", age=1)
    checkpoint(tmp_path, "version_0", age=5)
    checkpoint(tmp_path, "version_10", age=9)
    best = checkpoint(tmp_path, "version_10", age=9, name="best")
    assert find_checkpoint("last", tmp_path) == str(newest)
    assert find_checkpoint("best", tmp_path) == str(best)
    assert find_checkpoint(str(best), tmp_path) == str(best)
    assert find_checkpoint("s3://bucket/last.ckpt", tmp_path) == "s3://bucket/last.ckpt"


def test_a_half_written_sharded_checkpoint_does_not_count(tmp_path):
    whole = tmp_path / "version_0/checkpoints/last.ckpt"
    broken = tmp_path / "version_1/checkpoints/last.ckpt"
    for folder in (whole, broken):
        folder.mkdir(parents=True)
        (folder / ".metadata").touch()
    (whole / "meta.pt").touch()  # comes last
    assert find_checkpoint("last", tmp_path) == str(whole)


def test_no_checkpoint_is_an_error_that_names_the_folder(tmp_path):
    with pytest.raises(CheckpointError, match=f"no last.ckpt under {tmp_path}"):
        find_checkpoint("last", tmp_path)


def test_versions(tmp_path):
    assert next_version("version", tmp_path) == "version_0"
    path = checkpoint(tmp_path, "version_9", age=0)
    checkpoint(tmp_path, "version_10", age=0)
    assert next_version("version", tmp_path) == "version_11"
    assert next_version("validate", tmp_path) == "validate_0"
    assert version_of(str(path), tmp_path) == "version_9"
    assert version_of(str(path), tmp_path / "elsewhere") is None
    assert version_of(str(tmp_path / "validate_0/checkpoints/last.ckpt"), tmp_path) is None


def test_a_crash_while_writing_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)

    def half(value, file):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


class Trap:
    def __reduce__(self):
        return print, ("code that a checkpoint runs",)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, capsys):
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": Trap()}, path)
    with pytest.raises(CheckpointError, match=r"last.ckpt: not a checkpoint of embedrl"):
        AtomicCheckpointIO().load_checkpoint(path)
    assert capsys.readouterr().out == ""


def test_best_needs_something_to_compare():
    assert len(CheckpointOptions().callbacks()) == 1
    best, last = CheckpointOptions(every_n_steps=7, monitor="val/hit@1").callbacks()
    assert last.save_last
    assert best.monitor == "val/hit@1"
    assert best.mode == "max"
