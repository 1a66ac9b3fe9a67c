"""The EG-RL step on two processes: the rewards and the policy of one."""

import pytest
import torch
from dist_egrl import SaveAt, build, run
from processes import finish, launch, weights

from embedrl.commands.export import export
from embedrl.distributed.sharded_checkpoint import read_weights
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner

RANKS = (0, 1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One process trains here; two under FSDP2 and DDP."""
    out = tmp_path_factory.mktemp("ranks")
    processes = launch("dist_egrl", out, log=out)
    saves = [SaveAt(at, out / f"paper-{at}.ckpt") for at in (2, 4)]
    one = {
        "paper": run("paper", save=out / "paper.ckpt", callbacks=saves),
        "idle": run("idle", save=out / "idle.ckpt"),
    }
    finish(processes, out)
    return out, one


def found(out, name):
    return [torch.load(out / f"{name}.{rank}.pt", weights_only=True) for rank in RANKS]


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("name", ["paper-fsdp", "paper-ddp", "idle-fsdp", "idle-ddp"])
def test_two_processes_reward_and_learn_as_one(runs, name):
    out, one = runs
    kind = name.split("-")[0]
    ranks, expected = found(out, name), one[kind]
    steps = {"paper-fsdp": 3, "paper-ddp": 1}.get(name, 2)
    assert [len(rank["rewards"]) for rank in ranks] == [steps, steps]
    for step, parts in enumerate(zip(*(r["rewards"] for r in ranks), strict=True)):
        together = parts[0] | parts[1]
        assert len(together) == len(parts[0]) + len(parts[1]) == 24
        assert together.keys() == expected["rewards"][step].keys()
        for rollout, values in together.items():
            assert values == pytest.approx(expected["rewards"][step][rollout], abs=1e-5), (step, rollout)
    alone = weights(out / ("paper-2.ckpt" if name == "paper-ddp" else f"{kind}.ckpt"))
    got = weights(out / f"{name}.ckpt")
    assert got.keys() == alone.keys()
    assert any("visual" in key for key in got)
    for key, value in alone.items():
        torch.testing.assert_close(got[key], value, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.dist
def test_the_policy_moved_by_much_more_than_it_may_differ(runs):
    out, _ = runs
    first = build("idle")[0].state_dict()
    for kind in ("paper", "idle"):
        moved = {
            name: float((value - first[name]).abs().max()) for name, value in weights(out / f"{kind}.ckpt").items()
        }
        assert max(value for name, value in moved.items() if "visual" in name) > 1e-3
        assert max(moved.values()) > 5e-3


@pytest.mark.slow
@pytest.mark.dist
def test_processes_write_and_judge_at_their_own_pace(runs):
    out, one = runs
    ranks = found(out, "paper-fsdp")
    assert [a + b for a, b in zip(*(r["questions"] for r in ranks), strict=True)] == one["paper"]["questions"]
    assert [r["replies"] for r in ranks] == [one["paper"]["replies"][::2], one["paper"]["replies"][1::2]]
    for rank in ranks:
        for name in ("val/hit@1", "val/format", "policy/grad_norm", "policy/loss"):
            assert rank["figures"][name] == pytest.approx(one["paper"]["figures"][name], rel=1e-3, abs=1e-5), name


@pytest.mark.slow
@pytest.mark.dist
def test_a_rank_may_have_nothing_to_learn_from(runs):
    out, one = runs
    ranks = found(out, "idle-fsdp")
    totals = list(ranks[1]["rewards"][0].values())
    assert totals == [[0.5, 0.5]] * len(totals) != []
    assert one["idle"]["figures"]["advantage/zero_variance"] >= 0.5


@pytest.mark.slow
@pytest.mark.dist
def test_a_sharded_run_resumes_exactly(runs):
    """From a folder of shards, and to one."""
    out, _ = runs
    whole, resumed = found(out, "paper-fsdp"), found(out, "paper-resumed")
    assert [r["rewards"] for r in resumed] == [r["rewards"][2:] for r in whole]
    expected = weights(out / "paper-fsdp.ckpt")
    got = read_weights(out / "paper-resumed.ckpt")
    assert got.keys() == expected.keys()
    for name, value in got.items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.slow
@pytest.mark.dist
def test_a_checkpoint_resumes_on_another_number_of_processes(runs):
    """Of one process on two sharded ones, and the other way round: the same rewards, the same policy."""
    out, one = runs
    from_two = run("paper", ckpt_path=out / "half.ckpt", save=out / "paper-from-two.ckpt")["rewards"]
    from_one = [a | b for a, b in zip(*(r["rewards"] for r in found(out, "paper-from-one")), strict=True)]
    expected, alone = one["paper"]["rewards"][2:], weights(out / "paper.ckpt")
    for got in (from_one, from_two):
        assert len(got) == len(expected) == 1
        assert got[0].keys() == expected[0].keys()
        for rollout, values in got[0].items():
            assert values == pytest.approx(expected[0][rollout], abs=1e-5), rollout
    for name in ("from-one", "from-two"):
        for key, value in weights(out / f"paper-{name}.ckpt").items():
            torch.testing.assert_close(value, alone[key], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.dist
def test_the_checkpoint_of_a_sharded_run_is_exported(runs, tmp_path):
    out, _ = runs
    export(out / "paper-fsdp.ckpt", tmp_path / "merged")
    export(out / "paper-fsdp.ckpt", tmp_path / "adapter", adapter=True)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {f.name for f in (tmp_path / "adapter").iterdir()}
    base, merged = QwenVLReasoner("embedrl:world_base"), QwenVLReasoner(str(tmp_path / "merged"))
    base.build()
    merged.build()
    trained = weights(out / "paper-fsdp.ckpt")
    layer = "model.visual.blocks.0.attn.qkv"
    a, b = (trained[f"generator.net.base_model.model.{layer}.lora_{side}.default.weight"] for side in "AB")
    change = merged.network.get_submodule(layer).weight - base.network.get_submodule(layer).weight
    torch.testing.assert_close(change, 8 / 4 * b @ a, rtol=1e-4, atol=1e-5)
