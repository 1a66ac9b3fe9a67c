import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from dist_policy import KEYS, step
from policy_helpers import policy_model

WORLD = 2


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes under FSDP2 found."""
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    shared = {"WORLD_SIZE": str(WORLD), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, Path(__file__).parent / "dist_policy.py", out],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        logs = [p.communicate(timeout=250)[0] for p in processes]
    finally:
        for p in processes:
            p.kill()
    assert all(p.returncode == 0 for p in processes), "\n".join(logs)
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
