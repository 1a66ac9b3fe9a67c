import dist_qwen
import pytest
import torch
from dist_embedder import STEPS, UNEVEN, ranked, summary, train, uneven_rows
from fake_backbone import MeanRelevantScore
from processes import WORLD, finish, launch, weights
from qwen_helpers import write_checkpoint

from embedrl.distributed.collectives import gather_rows, max_over_ranks, world_size
from embedrl.metrics.retrieval import NDCG, HitRate, score


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One process trains here; two under DDP and FSDP2, from scratch and from a checkpoint of one."""
    out = tmp_path_factory.mktemp("ranks")
    train("auto", 1, steps=2, save=out / "one-at-2.ckpt")
    processes = launch("dist_embedder", out, out / "one-at-2.ckpt", log=out)
    one = summary(*train("auto", 1, save=out / "one.ckpt"))
    finish(processes, out)
    return out, one


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_as_one(runs, strategy):
    out, one = runs
    expected, got = weights(out / "one.ckpt"), weights(out / f"{strategy}.ckpt")
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-6)
    for rank in range(WORLD):
        result = torch.load(out / f"{strategy}.{rank}.pt", weights_only=True)
        assert result["logged"] == pytest.approx(one["logged"], rel=1e-4, abs=1e-5)
        for a, b in zip(result["vectors"], one["vectors"], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_checkpoint_of_one_process_resumes_on_two(runs, strategy):
    """Also the optimizer's moments: they would land on the wrong parameters if matched by another order."""
    out, _ = runs
    expected, got = weights(out / "one.ckpt"), weights(out / f"{strategy}-resumed.ckpt")
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.dist
@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_of_two_sharded_processes_resumes_on_one(runs, tmp_path):
    out, _ = runs
    train("auto", 1, steps=STEPS + 1, until=STEPS + 1, ckpt_path=out / "fsdp.ckpt", save=tmp_path / "a.ckpt")
    train("auto", 1, steps=STEPS + 1, until=STEPS + 1, ckpt_path=out / "one.ckpt", save=tmp_path / "b.ckpt")
    expected = weights(tmp_path / "b.ckpt")
    for name, value in weights(tmp_path / "a.ckpt").items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.dist
def test_info_nce_equals_clip_loss_over_two_processes(runs):
    out, _ = runs
    for rank in range(WORLD):
        ours, theirs = torch.load(out / f"clip.{rank}.pt", weights_only=True)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.dist
@pytest.mark.parametrize("sizes", UNEVEN)
def test_rows_that_ranks_hold_unevenly_are_gathered_in_order_bit_by_bit(runs, sizes):
    count = sum(UNEVEN[sizes])
    for rank in range(WORLD):
        found, _ = torch.load(runs[0] / f"gathers.{rank}.pt", weights_only=True)
        for dtype in (torch.long, torch.bool, torch.bfloat16, torch.float64):
            got = found[sizes, str(dtype)]
            assert got.dtype is dtype
            assert torch.equal(got, uneven_rows(dtype)[:count])
        mine = slice(sum(UNEVEN[sizes][:rank]), sum(UNEVEN[sizes][: rank + 1]))
        torch.testing.assert_close(found[sizes, "gradient"], 3 * uneven_rows(torch.float64)[mine] ** 2)
        assert found[sizes, "objects"] == [f"row {i}" for i in range(count)]
        assert found["max"] == 10
        assert found["mean"].tolist() == [1.0, 1.5]


@pytest.mark.dist
def test_metrics_are_means_over_the_queries_of_both_processes(runs):
    whole = ranked()
    expected = score(whole, [HitRate(1), HitRate(3), NDCG(5), MeanRelevantScore()])
    assert 0 < expected["hit@1"] < expected["hit@3"] < 1
    for rank in range(WORLD):
        _, (values, alone) = torch.load(runs[0] / f"gathers.{rank}.pt", weights_only=True)
        assert values == pytest.approx(expected, rel=1e-12)
        assert alone == (expected if rank == 1 else {})


@pytest.mark.dist
@pytest.mark.parametrize(
    "family",
    ["", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen2_5_vl", "internvl", "gemma4", "idefics3"))],
)
def test_a_rank_without_a_picture_trains_as_one(family, tmp_path):
    """FSDP2 waits for ever for a rank that skips a sharded module, and reduces only the gradients that a rank has."""
    checkpoint = f"embedrl:tiny/{family}" if family else write_checkpoint(tmp_path / "tiny")
    processes = launch("dist_qwen", checkpoint, tmp_path, log=tmp_path)
    one = {
        vision: dist_qwen.step(checkpoint, [*dist_qwen.CHATS[0], *dist_qwen.CHATS[1]], vision)
        for vision in (True, False)
    }
    before = dist_qwen.weights(dist_qwen.build(checkpoint, True))
    finish(processes, tmp_path)
    for vision, expected in one.items():
        got = weights(tmp_path / f"{vision}.pt")
        moved = [name for name, value in expected.items() if not torch.equal(value, before[name])]
        assert any("visual" in name or "vision" in name for name in moved) == vision
        for name, value in expected.items():
            # Averaged over the ranks, where one process sums.
            torch.testing.assert_close(2 * (got[name] - before[name]), value - before[name], rtol=1e-3, atol=1e-6)


def test_without_a_process_group_nothing_is_exchanged():
    rows = torch.ones(3, 2, requires_grad=True)
    assert gather_rows(rows) is rows
    assert max_over_ranks(4, torch.device("cpu")) == 4
    assert world_size() == 1
