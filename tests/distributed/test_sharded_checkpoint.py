"""Checkpoints that are folders: written by several processes, read by as many or others, or put together."""

import pickle
from pathlib import Path

import dist_sharded
import pytest
import torch
from processes import finish, launch, start, weights

from embedrl.distributed.sharded_checkpoint import (
    REST,
    is_sharded,
    read_rest,
    read_weights,
    replace_checkpoint,
    saved_keys,
)
from embedrl.errors import CheckpointError
from embedrl.training.run_dir import AtomicCheckpointIO, find_checkpoint


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two processes write and resume; so does one beside them, and each reads what the others wrote."""
    out = tmp_path_factory.mktemp("ranks")
    processes = launch("dist_sharded", out, log=out)
    finish([*processes, start(dist_sharded.alone, (out,), out / "alone.log")], out)
    return out


@pytest.mark.dist
def test_a_folder_resumes_exactly(runs):
    """It replaced another one, and a save that was interrupted did it no harm."""
    expected, got = weights(runs / "whole.ckpt"), weights(runs / "resumed.ckpt")
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        assert torch.equal(got[name], value), name


@pytest.mark.dist
def test_a_folder_resumes_on_another_number_of_processes(runs):
    expected = weights(runs / "whole.ckpt")
    for got in (weights(runs / "from-one.ckpt"), read_weights(runs / "from-two.ckpt")):
        assert expected.keys() == got.keys()
        for name, value in expected.items():
            torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.dist
def test_a_folder_holds_what_a_file_holds(runs):
    file = torch.load(runs / "resumed.ckpt", weights_only=True)
    assert is_sharded(runs / "from-two.ckpt")
    assert saved_keys(runs / "from-two.ckpt") == file["state_dict"].keys()  # no frozen weights
    rest = read_rest(runs / "from-two.ckpt")
    assert rest.keys() == file.keys() - {"state_dict", "optimizer_states"}
    assert rest["global_step"] == file["global_step"] == 3


@pytest.mark.dist
def test_a_folder_of_another_model_is_refused_by_all(runs):
    told = [(runs / f"wider.{rank}.txt").read_text() for rank in (0, 1)]
    assert told[0] == told[1]
    assert "backbone.net.6.bias, backbone.net.6.weight" in told[0]


def fake_folder(path, step):
    path.mkdir()
    (path / ".metadata").write_text("")
    (path / REST).write_text(str(step))
    return path


def step_of(path):
    return (Path(path) / REST).read_text()


def test_a_killed_replacement_leaves_one_to_resume_from(tmp_path, monkeypatch):
    """Between the two renames the name is free: what it stood for has another one then."""
    last = fake_folder(tmp_path / "last.ckpt", 1)
    replace_checkpoint(fake_folder(tmp_path / "last.ckpt.part", 2), last)
    assert step_of(find_checkpoint("last", tmp_path)) == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    rename, done = Path.rename, []

    def killed(self, target):
        if done:
            raise KeyboardInterrupt
        done.append(rename(self, target))

    part = fake_folder(tmp_path / "last.ckpt.part", 3)
    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        replace_checkpoint(part, last)
    monkeypatch.undo()
    assert not last.exists()
    assert step_of(find_checkpoint("last", tmp_path)) == "2"
    replace_checkpoint(part, last)
    assert step_of(find_checkpoint("last", tmp_path)) == "3"
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_file_and_a_folder_take_each_others_place(tmp_path):
    last = tmp_path / "last.ckpt"
    last.write_text("a file")
    replace_checkpoint(fake_folder(tmp_path / "last.ckpt.part", 1), last)
    assert step_of(last) == "1"
    (tmp_path / "last.ckpt.part").write_text("a file")
    replace_checkpoint(tmp_path / "last.ckpt.part", last)
    assert last.read_text() == "a file"
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


class Harmful:
    def __reduce__(self):
        return (print, ("harm",))


@pytest.mark.parametrize("table", [pickle.dumps(Harmful()), pickle.dumps(["no table"]), b"", b"junk"])
def test_a_table_of_contents_that_is_none_is_refused(table, tmp_path, capsys):
    """A pickle may name any function: this one is read all the same, by torch's own reader."""
    (tmp_path / ".metadata").write_bytes(table)
    with pytest.raises(CheckpointError, match=r"\.metadata: not a sharded checkpoint's"):
        saved_keys(tmp_path)
    assert "harm" not in capsys.readouterr().out


def test_other_strategies_say_what_reads_a_folder(tmp_path):
    with pytest.raises(CheckpointError, match="FSDP2Strategy"):
        AtomicCheckpointIO().load_checkpoint(fake_folder(tmp_path / "last.ckpt", 1))
