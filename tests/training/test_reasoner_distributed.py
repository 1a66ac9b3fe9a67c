"""Supervised training of the Reasoner on two processes: what one process does."""

import pytest
import torch
from dist_reasoner import ACCUMULATED, train
from processes import finish, launch, weights
from transformers import AutoModelForImageTextToText

from embedrl.commands.export import export


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One process trains here; two under FSDP2 and DDP."""
    out = tmp_path_factory.mktemp("ranks")
    train("auto", 1, steps=2, save=out / "one-at-2.ckpt")
    processes = launch("dist_reasoner", out, log=out)
    one = train("auto", 1, save=out / "one.ckpt", exam=3)
    train("auto", 1, save=out / "one-accumulated.ckpt", **ACCUMULATED)
    finish(processes, out)
    return out, one


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["fsdp", "ddp"])
def test_two_processes_train_as_one(runs, strategy):
    """Rank 1 has no picture, one micro-batch fewer and fewer tokens."""
    out, one = runs
    expected, got = weights(out / "one.ckpt"), weights(out / f"{strategy}.ckpt")
    assert expected.keys() == got.keys()
    assert any("visual" in name for name in got)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-5)
    for rank in (0, 1):
        found = torch.load(out / f"{strategy}.{rank}.pt", weights_only=True)
        for name in ("train/loss", "train/grad_norm"):
            assert found["figures"][name] == pytest.approx(one["figures"][name], rel=1e-4)


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["fsdp", "ddp"])
def test_two_processes_accumulate_as_one(runs, strategy):
    """Batches with different numbers of tokens, so that a mean of their means would be another gradient."""
    out, _ = runs
    expected, got = weights(out / "one-accumulated.ckpt"), weights(out / f"{strategy}-accumulated.ckpt")
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.dist
def test_when_gradients_are_exchanged(runs):
    """DDP: once an optimizer step. FSDP2: with each of the two micro-batches, so that ranks keep shards alone."""
    out, _ = runs
    for rank in (0, 1):
        found = {path.stem: torch.load(path, weights_only=True) for path in out.glob(f"*.{rank}.pt")}
        assert found[f"ddp.{rank}"]["reductions"] == [1, 1, 1]
        assert found[f"ddp-accumulated.{rank}"]["reductions"] == [0, 1, 1]
        for name in (f"fsdp.{rank}", f"fsdp-accumulated.{rank}"):
            assert found[name]["units"] > 2
            assert found[name]["reductions"] == [2 * found[name]["units"]] * 3


@pytest.mark.slow
@pytest.mark.dist
def test_ranks_write_different_numbers_of_replies(runs):
    """Three lessons on two ranks under FSDP2; one lesson, so that rank 1 has none, under DDP."""
    out, one = runs
    found = [torch.load(out / f"fsdp.{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert [f["replies"] for f in found] == [one["replies"][::2], one["replies"][1::2]]
    assert found[0]["figures"]["val/exact"] == found[1]["figures"]["val/exact"] == one["figures"]["val/exact"]
    alone = [torch.load(out / f"ddp.{rank}.pt", weights_only=True)["replies"] for rank in (0, 1)]
    assert alone == [one["replies"][:1], []]


@pytest.mark.slow
@pytest.mark.dist
def test_a_sharded_run_resumes_exactly(runs):
    out, _ = runs
    expected, got = weights(out / "fsdp.ckpt"), weights(out / "resumed.ckpt")
    assert got.keys() == expected.keys() != set()
    for name, value in got.items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.slow
@pytest.mark.dist
def test_a_checkpoint_resumes_on_another_number_of_processes(runs):
    """Of one process on two sharded ones, and the other way round: also the optimizer's moments find their places."""
    out, _ = runs
    train("auto", 1, ckpt_path=out / "two.ckpt", save=out / "from-two.ckpt")
    expected = weights(out / "one.ckpt")
    for name in ("from-one", "from-two"):
        got = weights(out / f"{name}.ckpt")
        assert got.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(got[key], value, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.dist
def test_a_sharded_model_is_shipped_and_its_checkpoint_exported(runs, tmp_path):
    out, _ = runs
    export(out / "fsdp.ckpt", tmp_path / "exported")
    assert (out / "shards.ckpt").is_dir()
    export(out / "shards.ckpt", tmp_path / "from_shards")
    trained = weights(out / "fsdp.ckpt")
    for folder in (out / "shipped", tmp_path / "exported", tmp_path / "from_shards"):
        state = AutoModelForImageTextToText.from_pretrained(folder).state_dict()
        compared = [name for name in state if f"generator.net.{name}" in trained]
        assert len(compared) > 50
        for name in compared:
            assert torch.equal(state[name], trained[f"generator.net.{name}"]), name
