"""A discriminator behind an endpoint, a real server on this machine: what it asks, and how it fails."""

import asyncio
import json
import math
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from jsonargparse import ArgumentParser
from reward_helpers import step_of

from embedrl.errors import ConfigError, RewardError
from embedrl.rl.rewards.endpoint import EndpointJudge
from embedrl.rl.rewards.judge import Judge, Question, Verdict
from embedrl.rl.rewards.process import ProcessReward
from embedrl.training.checkpoints import config_form

QUESTIONS = [Question(f"0/query/{i}", f"question {i}", 12) for i in range(6)]


def completion(text):
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}


class Server(ThreadingHTTPServer):
    """An OpenAI-compatible endpoint that does what `reply(handler, request)` says; keeps what it was sent."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, reply):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply = reply
        self.lock = threading.Lock()
        self.requests, self.headers = [], []
        self.open = self.most_open = 0
        self.closing = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        """A client that left is what several tests are about."""


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.headers.append(self.headers)  # read without regard to case
            self.server.open += 1
            self.server.most_open = max(self.server.most_open, self.server.open)
        try:
            assert self.path == "/v1/chat/completions"
            self.server.reply(self, body)
        finally:
            with self.server.lock:
                self.server.open -= 1

    def send(self, status, content):
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *args):
        pass


@contextmanager
def serving(reply):
    server = Server(reply)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def endpoint(server, **options):
    return EndpointJudge(server.url, "tiny", **{"timeout": 20.0, "backoff": 0.0, **options})


def saying(text):
    return lambda handler, body: handler.send(200, completion(text))


def status(code):
    return lambda handler, body: handler.send(code, {"error": "not today"})


def hang(handler, body):
    handler.server.closing.wait(30)


def trickle(handler, body):
    """Sends a byte now and then: no single read ever times out."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not handler.server.closing.wait(0.05):
        handler.wfile.write(b" ")


def hang_up(handler, body):
    handler.connection.close()


def bad_gzip(handler, body):
    handler.send_response(200)
    handler.send_header("Content-Encoding", "gzip")
    handler.send_header("Content-Length", "9")
    handler.end_headers()
    handler.wfile.write(b"not gzip!")


def test_a_checkpoint_can_hold_it():
    given = {"base_url": "http://a/v1", "model": "m", "max_tokens": 2, "retries": 7, "extra": {"seed": 1}}
    written = config_form(EndpointJudge(**given))
    assert written["class_path"] == "embedrl.rl.EndpointJudge"
    assert written["init_args"].items() >= given.items()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--judge", type=Judge)
    again = parser.instantiate(parser.parse_object({"judge": written})).judge
    assert vars(again) == vars(EndpointJudge(**given))


def test_questions_are_answered_in_order():
    def reply(handler, body):
        number = int(body["messages"][0]["content"].split()[-1])
        time.sleep(0.02 * (6 - number))  # the last question is answered first
        handler.send(200, completion(str(number + 1)))

    with serving(reply) as server:
        verdicts = endpoint(server).choose(QUESTIONS)
    assert verdicts == [Verdict(i) for i in range(6)]
    assert server.requests[0] | {"messages": None} == {
        "model": "tiny",
        "messages": None,
        "max_tokens": 8,
        "temperature": 0.0,
    }
    assert "Authorization" not in server.headers[0]


def test_the_key_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    with serving(saying("1")) as server:
        judge = endpoint(server, api_key_env="MY_KEY")
        judge.choose(QUESTIONS[:1])
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert "secret" not in str(vars(judge))


@pytest.mark.parametrize(
    ("reply", "options", "cause", "attempts"),
    [
        (hang, {"timeout": 0.6}, "timeout", 3),
        (trickle, {"timeout": 0.6}, "timeout", 3),
        (hang_up, {}, "unreachable", 3),
        (status(500), {}, "http_500", 3),
        (status(429), {}, "http_429", 3),
        (status(503), {"retries": 0}, "http_503", 1),
        (status(401), {}, "http_401", 1),
        (status(302), {}, "http_302", 1),
        (saying("the third, I think"), {}, "unreadable", 1),
        (saying(""), {}, "unreadable", 1),
        (saying("13"), {}, "out_of_range", 1),
        (saying("0"), {}, "out_of_range", 1),
        (saying(None), {}, "malformed", 1),
        (saying(3), {}, "malformed", 1),
        (lambda h, b: h.send(200, {"choices": []}), {}, "malformed", 1),
        (lambda h, b: h.send(200, {"choices": {"message": 1}}), {}, "malformed", 1),
        (lambda h, b: h.send(200, {"error": "busy"}), {}, "malformed", 1),
        (lambda h, b: h.send(200, [1, 2]), {}, "malformed", 1),
        (lambda h, b: h.send(200, b"<html>not json"), {}, "malformed", 1),
        (lambda h, b: h.send(200, b"\xff\xfe\x00"), {}, "malformed", 1),
        (lambda h, b: h.send(200, b"[" * 200_000), {}, "malformed", 1),
        (bad_gzip, {}, "malformed", 1),
    ],
)
def test_failures_have_a_cause_and_only_passing_ones_are_retried(reply, options, cause, attempts):
    with serving(reply) as server:
        assert endpoint(server, **options).choose(QUESTIONS[:1]) == [Verdict(None, cause)]
    assert len(server.requests) == attempts


def test_a_failure_that_passes_costs_nothing():
    left = iter([500, 429, 200])

    def reply(handler, body):
        code = next(left)
        handler.send(code, completion("5"))

    with serving(reply) as server:
        assert endpoint(server).choose(QUESTIONS[:1]) == [Verdict(4)]


def test_one_failure_leaves_the_other_questions_alone():
    def reply(handler, body):
        {"question 1": status(500), "question 4": saying("none")}.get(body["messages"][0]["content"], saying("2"))(
            handler, body
        )

    with serving(reply) as server:
        verdicts = endpoint(server).choose(QUESTIONS)
    assert [v.cause or v.index for v in verdicts] == [1, "http_500", 1, 1, "unreadable", 1]


def test_nobody_listens():
    with serving(hang) as server:
        judge = endpoint(server, retries=1)
    assert {v.cause for v in judge.choose(QUESTIONS)} == {"unreachable"}


def test_pauses_grow_between_retries():
    with serving(status(500)) as server:
        start = time.monotonic()
        endpoint(server, backoff=0.1).choose(QUESTIONS[:1])
    assert time.monotonic() - start >= 0.1 + 0.2


def test_no_more_questions_are_under_way_than_allowed():
    def reply(handler, body):
        time.sleep(0.05)
        handler.send(200, completion("1"))

    with serving(reply) as server:
        endpoint(server, concurrency=2).choose(QUESTIONS)
    assert server.most_open == 2


def test_a_step_ends_in_time_whatever_the_endpoint_does():
    with serving(hang) as server:
        verdicts = endpoint(server, concurrency=1, total_timeout=0.5).choose(QUESTIONS)
        assert len(server.requests) == 1, "it asked on when the time was over"
    assert verdicts == [Verdict(None, "timeout")] * 6


def test_works_inside_a_running_loop():
    async def cell():
        return endpoint(server).choose(QUESTIONS[:1])

    with serving(saying("1")) as server:
        assert asyncio.run(cell()) == [Verdict(0)]


def test_no_questions_ask_nothing():
    with serving(hang) as server:
        assert endpoint(server).choose([]) == []


def test_a_failing_endpoint_is_counted_and_then_stops_the_run():
    """The whole way: reward → endpoint → the error that a user reads."""
    step = step_of(range(3), range(3), 2)
    answers = [saying("1"), status(500), saying("nonsense"), saying("99")]

    def reply(handler, body):
        answers[len(handler.server.requests) % 4](handler, body)

    with serving(reply) as server:
        reward = ProcessReward(endpoint(server, retries=0, concurrency=1), max_failures=0.5, patience=2)
        result = reward(step)
        assert sum(value is None for value in result.values.values()) == 9
        assert {k: v for k, v in result.metrics.items() if "failed" in k} == {
            "failed/http_500": 0.25,
            "failed/out_of_range": 0.25,
            "failed/unreadable": 0.25,
        }
        with pytest.raises(RewardError) as error:
            reward(step)
    message = str(error.value)
    assert f"{server.url} (tiny)" in message
    assert "9 of 12; " in message
    for part in ("http_500 3", "unreadable 3", "out_of_range 3", "not today", "raise its timeout"):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("base_url", "localhost:8000"),
        ("base_url", "http://"),
        ("base_url", "http://[::1"),
        ("base_url", "file:///etc"),
        ("timeout", 0.0),
        ("total_timeout", -1.0),
        ("retries", -1),
        ("backoff", -0.1),
        ("concurrency", 0),
        ("max_tokens", 0),
    ],
)
def test_refuses_options_out_of_range(option, value):
    with pytest.raises(ConfigError, match=f"judge.{option}"):
        EndpointJudge(**{"base_url": "http://127.0.0.1:1/v1", "model": "m", option: value})


def weighed(tokens):
    answer = completion("2")
    top = [{"token": token, "logprob": value} for token, value in tokens]
    answer["choices"][0]["logprobs"] = {
        "content": [{"token": tokens[0][0], "logprob": tokens[0][1], "top_logprobs": top}]
    }
    return answer


def test_log_probabilities_of_the_first_token_are_the_judges_probabilities():
    tokens = [("2", -0.5), ("1", -1.5), (" 1", -3.0), ("The", -4.0), ("12", -5.0), ("9", -6.0)]
    with serving(lambda handler, request: handler.send(200, weighed(tokens))) as server:
        judge = EndpointJudge(server.url, "tiny", logprobs=True)
        (verdict,) = judge.choose([Question("0/query/0", "which ?", 3)])
        assert all(body["logprobs"] is True and body["top_logprobs"] == 20 for body in server.requests)
    one, two = math.exp(-1.5) + math.exp(-3.0), math.exp(-0.5)
    assert verdict.probabilities == pytest.approx((one / (one + two), two / (one + two), 0.0))
    assert verdict.index == 1
    assert judge.gives_probabilities


def test_a_server_without_log_probabilities_gives_no_verdict():
    with serving(lambda handler, request: handler.send(200, completion("2"))) as server:
        (verdict,) = EndpointJudge(server.url, "tiny", logprobs=True).choose([Question("0/query/0", "which ?", 3)])
    assert verdict == Verdict(None, "no_logprobs")


def test_probabilities_that_an_endpoint_cannot_give_are_refused():
    url = "http://127.0.0.1:1/v1"
    with pytest.raises(ConfigError, match="logprobs: true"):
        ProcessReward(EndpointJudge(url, "tiny"), form="probability")
    with pytest.raises(ConfigError, match="at most 9 candidates"):
        EndpointJudge(url, "tiny", logprobs=True).choose([Question("0/query/0", "which ?", 10)])
