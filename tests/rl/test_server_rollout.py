"""Rollouts by a real server: the tokens and log-probabilities of the policy, or an error with a name."""

import json
import socket
import time

import pytest
import torch
from policy_helpers import PROMPTS, plain_logprobs, policy_model
from rollout_server import Refused, RolloutServer

from embedrl.errors import ConfigError, EndpointError
from embedrl.models.generator import QwenVLReasoner
from embedrl.rl.policy import Group, Policy
from embedrl.rl.rollout import RolloutOptions
from embedrl.rl.server_rollout import ServerRollout

CHATS, KEYS = list(PROMPTS.values()), list(PROMPTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What is served: an export, whose tokenizer knows <emb>."""
    out = tmp_path_factory.mktemp("served")
    model = QwenVLReasoner("embedrl:tiny")
    model.build()
    model.export(out)
    return out


@pytest.fixture(scope="module")
def running(folder):
    server = RolloutServer(folder)
    yield server
    server.close()


@pytest.fixture
def server(running):
    """The server, well and with nothing loaded."""
    running.loaded, running.log, running.chats = {}, [], []
    running.stale, running.spoil, running.change = False, lambda *_: False, lambda answer: answer
    return running


@pytest.fixture(scope="module")
def model(folder):
    return policy_model(path=str(folder), scope="all-linear").eval()


@pytest.fixture
def engine(server, model, tmp_path):
    """Makes an engine with options of its own and of the draws."""

    def make(policy=model, url=server.url, **options):
        draws = {
            name: options.pop(name) for name in ("temperature", "stop", "max_new_tokens", "seed") if name in options
        }
        made = ServerRollout(url, str(tmp_path / "adapters"), **{"backoff": 0.01, "retries": 1, **options})
        made.bind(policy, RolloutOptions(**{"max_new_tokens": 6, **draws}))
        return made

    return make


def policy_logprobs(model, groups, temperature=1.0):
    """What the policy pass computes for the tokens, by (group, reply)."""
    policy = Policy(model, temperature=temperature)
    found = {}
    with torch.no_grad():
        for batch in policy.batches(
            [Group(c, [s.tokens for s in group]) for c, group in zip(CHATS, groups, strict=True)]
        ):
            result = policy.log_probs(batch)
            for place, row, mask in zip(batch.replies, result.logprobs, result.mask, strict=True):
                found[place] = row[mask]
    return found


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_the_policy(engine, model, temperature, server):
    groups = engine(temperature=temperature).generate(CHATS, 3, KEYS)
    expected = policy_logprobs(model, groups, temperature)
    assert len(expected) == 12
    for (group, i), row in expected.items():
        torch.testing.assert_close(torch.tensor(groups[group][i].logprobs), row, atol=1e-4, rtol=0)
    # The adapter does something: without it the same tokens are otherwise likely.
    with model.network.disable_adapter(), torch.no_grad():
        bare, _, mask = plain_logprobs(model, CHATS[0], [s.tokens for s in groups[0]], temperature)
    drawn = torch.cat([torch.tensor(s.logprobs) for s in groups[0]])
    assert (bare[mask] - drawn).abs().mean() > 0.01
    assert len({s.tokens for s in groups[0]}) > 1
