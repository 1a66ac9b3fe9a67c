import pytest
import torch
from dist_policy import KEYS, step
from policy_helpers import policy_model
from processes import WORLD, finish, launch


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes under FSDP2 found."""
    out = tmp_path_factory.mktemp("ranks")
    finish(launch("dist_policy", out, log=out), out)
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.dist
def test_two_sharded_processes_write_score_and_train_as_one(ranks):
    one, weights = step([key for keys in KEYS for key in keys])
    reference, policy = {}, {}
    for rank, (found, got) in enumerate(ranks):
        for name in found.keys() - {"reference", "policy"}:
            for (tokens, logprobs), (expected, values) in zip(found[name], one.get(name, found[name]), strict=True):
                assert tokens == expected, name
                assert logprobs == pytest.approx(values, abs=1e-4 if "after" in name else 1e-5)
        reference[rank], policy[rank] = found["reference"], found["policy"]
        assert got.keys() == (weights.keys() if rank == 0 else set())  # gathered on rank 0
        for name, value in got.items():
            torch.testing.assert_close(value, weights[name], rtol=1e-5, atol=1e-7)
    assert {"0/image", "0/video", "0/text", "1/image"} <= ranks[0][0].keys() | ranks[1][0].keys()
    assert len({len(tokens) for found, _ in ranks for name in found if name[0] == "0" for tokens, _ in found[name]}) > 1
    for ours, name in ((reference, "reference"), (policy, "policy")):
        assert sorted(ours[0] + ours[1]) == pytest.approx(sorted(one[name]), rel=1e-5, abs=1e-4)
    # ... and the step did something.
    before = policy_model(path="embedrl:world_base").state_dict()
    assert max(float((weights[name] - before[name]).abs().max()) for name in weights) > 1e-3
