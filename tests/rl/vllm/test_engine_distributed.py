"""Two processes and one rollout server: rank 0 gives it the whole adapter, each rank asks for its own prompts."""

import json

import pytest
import torch
from dist_server_rollout import FAILING
from processes import finish, launch
from rollout_server import RefusedError, RolloutServer

from embedrl.models.qwen_vl.loading import SHIPPED


def refuse_one(handler, path, body):
    if body.get("n") == FAILING and "blue" in json.dumps(body["messages"]):
        raise RefusedError(422, "not this one")
    return False


@pytest.mark.slow
@pytest.mark.dist
def test_two_processes_and_one_server(tmp_path):
    folder = SHIPPED["embedrl:world_base"]
    server = RolloutServer(folder)
    server.spoil = refuse_one
    try:
        script = "dist_server_rollout"
        finish(launch(script, tmp_path, server.url, folder, log=tmp_path), tmp_path)
    finally:
        server.close()
    first, second = (torch.load(tmp_path / f"found.{rank}.pt", weights_only=True) for rank in (0, 1))
    figures = first["figures"]
    assert figures == second["figures"]
    assert 0 < figures["policy/mismatch"] < 1e-4
    assert figures["policy/mismatch_ratio_max"] < 1.001
    assert figures["policy/importance"] == pytest.approx(1, abs=1e-4)
    assert figures["policy/grad_norm"] > 0
    assert [{i.split("/")[0] for i in rank["ids"]} for rank in (first, second)] == [{"0", "1"}, {"2", "3"}]
    # Two steps, then one that fails: three adapters, whoever asked.
    assert server.log.count("load_lora_adapter") == 3
    assert len({body["model"] for body in server.chats}) == 3
    # A rank that is refused does not leave the other waiting.
    assert "not this one" in second["error"]
    assert first["error"] == second["error"]
