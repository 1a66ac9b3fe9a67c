"""Rollouts by a real server: the tokens and log-probabilities of the policy, or an error with a name."""

import json
import socket
import time

import pytest
import torch
from policy_helpers import PROMPTS, plain_logprobs, policy_model
from rollout_server import RefusedError, RolloutServer

from embedrl.errors import ConfigError, EndpointError
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.rl.policy import Group, Policy
from embedrl.rl.rollout import LocalRollout, RolloutOptions
from embedrl.rl.vllm.engine import ServerRollout

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


def test_greedy_replies_are_those_of_the_policy_itself(engine, model):
    options = {"temperature": 0.0, "max_new_tokens": 5}
    whole = engine(**options, stop=()).generate(CHATS, 1, KEYS)
    stop = model.processor.tokenizer.decode(whole[0][0].tokens[1:2])
    found = engine(**options, stop=(stop,)).generate(CHATS, 1, KEYS)
    expected = LocalRollout(model, RolloutOptions(**options, stop=(stop,))).generate(CHATS, 1, KEYS)
    for [mine], [local] in zip(found, expected, strict=True):
        assert (mine.tokens, mine.text, mine.truncated) == (local.tokens, local.text, local.truncated)
        assert mine.logprobs == pytest.approx(local.logprobs, abs=1e-4)
    assert not found[0][0].truncated
    assert len(found[0][0].tokens) < 5
    assert whole[0][0].truncated


def test_the_server_gets_one_adapter_after_the_other(engine, server, tmp_path):
    made = engine()
    for step in range(3):
        made.generate(CHATS[-1:], 1, KEYS[-1:], step)
        assert [path.name for path in (tmp_path / "adapters").iterdir()] == list(server.loaded)
    load, unload, ask = "load_lora_adapter", "unload_lora_adapter", "chat/completions"
    assert server.log == [load, ask, unload, load, ask, unload, load, ask]
    names = [body["model"] for body in server.chats]
    assert len({*names}) == 3
    engine().generate([], 1, [])
    assert len({*names, *server.loaded}) == 4  # another run's name, beside the first's


def test_a_reply_depends_on_seed_step_and_key_alone(engine):
    def tokens(step=0, order=(0, 3), **options):
        found = engine(max_new_tokens=3, **options).generate(
            [CHATS[i] for i in order], 2, [KEYS[i] for i in order], step
        )
        return [[s.tokens for s in found[order.index(i)]] for i in (0, 3) if i in order]

    first = tokens()
    assert tokens(order=(3, 0)) == first
    assert tokens(order=(3,)) == first[1:]
    assert all(a != b for a, b in zip(tokens(step=1), first, strict=True))
    assert all(a != b for a, b in zip(tokens(seed=1), first, strict=True))


def answers(status, content):
    """Spoils every answer to a chat."""

    def spoil(handler, path, body):
        if path == "chat/completions":
            handler.send(status, content)
            return True
        return False

    return spoil


def fails(times, status, only="chat/completions"):
    """Fails so many times, then no more."""
    left = [times]

    def spoil(handler, path, body):
        if path == only and left[0]:
            left[0] -= 1
            raise RefusedError(status, "out of order")
        return False

    return spoil


def ask(made, n=1):
    return made.generate(CHATS[-1:], n, KEYS[-1:])


@pytest.mark.parametrize(
    ("spoil", "message", "attempts"),
    [
        (answers(200, "<html>"), "no JSON", 1),
        (answers(200, "[" * 10**5), "no JSON", 1),
        (answers(200, {}), "no chat completion", 1),
        (answers(400, {"error": "logprobs are not for you"}), "http_400: .*logprobs are not", 1),
        (fails(9, 500), "http_500: .*out of order", 2),
        (fails(9, 404), "http_404", 1),
    ],
)
def test_nonsense_and_failures_are_errors_with_the_address(engine, server, spoil, message, attempts):
    server.spoil = spoil
    with pytest.raises(EndpointError, match=message) as error:
        ask(engine())
    assert server.url in str(error.value)
    assert server.log.count("chat/completions") == attempts


def test_a_passing_failure_is_retried(engine, server):
    server.spoil = fails(1, 503)
    assert len(ask(engine(), 2)[0]) == 2
    assert server.log.count("chat/completions") == 2


def test_one_prompt_that_fails_fails_the_step(engine, server):
    def spoil(handler, path, body):
        if path == "chat/completions" and "other" in json.dumps(body["messages"]):
            raise RefusedError(422, "not this one")
        return False

    server.spoil = spoil
    with pytest.raises(EndpointError, match="not this one"):
        engine().generate(CHATS, 1, KEYS)


def test_a_server_whose_pictures_are_smaller_is_refused(engine, server):
    size = server.processor.image_processor.size
    try:
        server.processor.image_processor.size = {"shortest_edge": 256, "longest_edge": 1024}
        with pytest.raises(EndpointError, match=r"reads another prompt than the policy.*--mm-processor-kwargs"):
            engine().generate(CHATS[:1], 1, KEYS[:1])
    finally:
        server.processor.image_processor.size = size


def test_a_dead_server(engine):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/v1"
        with pytest.raises(EndpointError, match=rf"{url}.*unreachable.*Is it up.*VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
            ask(engine(url=url))


def test_a_slow_server(engine, server):
    def spoil(handler, path, body):
        if path == "chat/completions":
            time.sleep(5)
        else:
            handler.send(200, "Success")
        return True

    server.spoil = spoil
    with pytest.raises(EndpointError, match=rf"{server.url}.*timeout.*engine.timeout \(1 s\)"):
        ask(engine(timeout=1.0, retries=0))


def test_an_adapter_that_is_refused(engine, server):
    server.spoil = fails(9, 400, "load_lora_adapter")
    with pytest.raises(EndpointError, match=r"could not load the adapter /.*out of order.*--max-lora-rank 4"):
        ask(engine())
    made = engine()
    server.spoil = lambda *_: False
    ask(made)
    server.spoil = fails(9, 500, "unload_lora_adapter")
    with pytest.raises(EndpointError, match=r"could not unload the adapter"):
        ask(made)


def test_a_server_that_was_started_anew_gets_the_adapter(engine, server):
    made = engine()
    ask(made)
    server.loaded.clear()
    ask(made)
    assert len(server.loaded) == 1


def test_an_answer_to_a_loading_that_is_lost(engine, server):
    def spoil(handler, path, body):
        if path == "load_lora_adapter" and server.log.count(path) == 1:
            server.load_lora_adapter(body)
            raise RefusedError(502, "too late")
        return False

    server.spoil = spoil
    ask(engine())
    assert server.log.count("load_lora_adapter") == 2


def test_the_folder_as_the_server_sees_it(engine, server, tmp_path):
    (tmp_path / "mounted").symlink_to(tmp_path / "adapters")
    seen = []
    server.spoil = lambda handler, path, body: seen.append(body.get("lora_path"))
    ask(engine(server_dir=str(tmp_path / "mounted")))
    assert seen[0].startswith(str(tmp_path / "mounted"))


def test_what_does_not_go_together_is_refused(engine, folder):
    bare = policy_model(lora=False, path=str(folder))
    with pytest.raises(ConfigError, match=r"set generator\.lora"):
        engine(bare)
    with pytest.raises(ConfigError, match=r"engine\.max_mismatch is 0"):
        engine(max_mismatch=0)
    with pytest.raises(ConfigError, match=r"engine\.base_url"):
        engine(url="localhost:8000")
    with pytest.raises(ValueError, match="different keys"):
        engine().generate(CHATS[:2], 1, ["a", "a"])
