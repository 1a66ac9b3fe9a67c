"""What the chat client promises beyond the answers: how long it waits, what it sends, and what it never shows."""

import asyncio
import json
import logging
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest

from embedrl.errors import ConfigError, EndpointError
from embedrl.utils.chat_client import ChatClient, Completion, Endpoint, NoAnswer, _OpenAI

CHAT = [{"role": "user", "content": "1 + 1?"}]
SECRET = "sk-none-may-see"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append((self.path, self.headers, body))
            self.server.clients.add(self.client_address)
            status, headers, content = self.server.reply(len(self.server.asked), self.headers)
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *args):
        """Not on the screen."""


@contextmanager
def serving(reply):
    """A server; `reply(number of the request, its headers)` returns status, headers and content."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.reply, server.lock, server.asked, server.clients = reply, threading.Lock(), [], set()
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completion(text, **more):
    return {"choices": [{"message": {"content": text, **more}, "finish_reason": "stop"}]}


def saying(text, **more):
    return lambda number, headers: (200, {}, completion(text, **more))


def ask(url, times=1, **options):
    async def asking():
        async with ChatClient(Endpoint(base_url=url, **{"backoff": 0.0, "timeout": 20.0, **options})) as client:
            return [await client.complete("m", CHAT, max_tokens=3, temperature=0.0) for _ in range(times)]

    return asyncio.run(asking())[-1]


def failure(reply, **options):
    with serving(reply) as server, pytest.raises(NoAnswer) as error:
        ask(server.url, **options)
    assert "\n" not in str(error.value)
    return error.value, len(server.asked)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


# ---------------------------------------------------------------- waiting


@pytest.mark.parametrize(
    ("backoff", "taken", "headers", "least", "most"),
    [
        (0.0, 0, None, 0, 0),
        (0.0, 7, None, 0, 0),
        (0.5, 0, None, 0.5, 1.0),
        (0.5, 1, None, 1.0, 1.5),
        (1.0, 4, None, 16, 17),
        (1.0, 5, None, 30, 30),
        (1.0, 5000, {}, 30, 30),
        (9.0, 0, {"Retry-After": "3"}, 3, 3),
        (9.0, 0, {"Retry-After": "120"}, 120, 120),
        (9.0, 0, {"retry-after-ms": "1500"}, 1.5, 1.5),
        (9.0, 0, {"Retry-After": "soon"}, 0, 1),
        (9.0, 0, {"Retry-After": "nan"}, 0, 1),
        (9.0, 0, {"Retry-After": "-5"}, 0, 1),
    ],
)
def test_pauses(backoff, taken, headers, least, most):
    client = _OpenAI(api_key="k", base_url="http://a/v1", max_retries=5000)
    client.backoff = backoff
    headers = None if headers is None else httpx2.Headers(headers)
    options = type("Options", (), {"get_max_retries": lambda self, most: most})()
    assert least <= client._calculate_retry_timeout(5000 - taken, options, headers) <= most


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
@pytest.mark.parametrize(("asked_for", "pauses"), [({"Retry-After": "3"}, [3, 3]), ({}, [30, 30])])
def test_what_the_server_asks_for_goes_before_the_backoff(status, asked_for, pauses, monkeypatch):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr("anyio.sleep", sleep)

    def reply(number, headers):
        return (status, asked_for, {}) if number < 3 else (200, {}, completion("2"))

    with serving(reply) as server:
        assert ask(server.url, backoff=60.0) == Completion("2")
    assert slept == pauses


@pytest.mark.parametrize("wait", ["121", "1e9", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_who_asks_for_more_than_two_minutes_is_not_waited_for(wait):
    error, attempts = failure(lambda *_: (429, {"Retry-After": wait}, {"error": {"message": "come back"}}))
    assert (error.cause, attempts) == ("http_429", 1)
    assert "come back" in error.detail


def test_connections_are_used_again():
    with serving(saying("2")) as server:
        ask(server.url, times=5)
    assert (len(server.asked), len(server.clients)) == (5, 1)


# ---------------------------------------------------------------- what is sent


def test_a_request_holds_what_was_asked_and_nothing_of_this_machine(monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-7")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-7")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", SECRET)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Own: {SECRET}\nAuthorization: Bearer {SECRET}")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere/v1")
    with serving(saying("2")) as server:
        assert ask(server.url, extra={"temperature": 0.5, "seed": 1}) == Completion("2")
    ((path, headers, body),) = server.asked
    assert path == "/v1/chat/completions"
    assert body == {"model": "m", "messages": CHAT, "max_tokens": 3, "temperature": 0.5, "seed": 1}
    assert {name.lower() for name in headers} - {"x-stainless-retry-count"} == {
        "host", "accept", "accept-encoding", "connection", "user-agent", "content-type", "content-length",
    }  # fmt: skip
    assert headers["User-Agent"] == "embedrl"


@pytest.mark.parametrize("key", [SECRET, f" {SECRET}\n", f"{SECRET}\r\n"])
def test_space_around_the_key_does_not_count(monkeypatch, key):
    monkeypatch.setenv("MY_KEY", key)
    with serving(saying("2")) as server:
        ask(server.url, api_key_env="MY_KEY")
    assert server.asked[0][1]["Authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("key", [f"{SECRET}\nX-Other: 1", f"{SECRET}\0", f"{SECRET}é", f"{SECRET}\x1b[0m"])
def test_a_key_that_no_header_can_hold(monkeypatch, key):
    monkeypatch.setattr("os.environ", {"MY_KEY": key})
    with pytest.raises(ConfigError, match=r"api_key_env: the value of MY_KEY") as error:
        Endpoint(base_url="http://a/v1", api_key_env="MY_KEY")
    assert SECRET not in str(error.value)


def test_a_password_in_the_address_is_sent_and_never_shown(monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_LOG", "debug")
    caplog.set_level(logging.DEBUG)
    with serving(lambda *_: (400, {}, {"error": "no"})) as server:
        url = server.url.replace("http://", f"http://me:{SECRET}@") + f"?token={SECRET}"
        assert Endpoint(base_url=url).address == server.url
        with pytest.raises(NoAnswer) as error:
            ask(url)
        ((path, headers, _),) = server.asked
    assert path == f"/v1/chat/completions?token={SECRET}"
    assert headers["Authorization"] == httpx2.BasicAuth("me", SECRET)._auth_header
    assert SECRET not in str(error.value)
    logged = [record.getMessage() for record in caplog.records]
    assert logged
    assert not any(f"me:{SECRET}" in line for line in logged)
    with pytest.raises(ConfigError, match=r"http//\*\*\*@a") as refused:
        Endpoint(base_url=f"http//me:{SECRET}@a")
    assert SECRET not in str(refused.value)


def test_a_key_that_the_server_repeats_is_not_shown(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    error, _ = failure(lambda number, headers: (401, {}, {"error": f"wrong: {headers['Authorization']}"}))
    assert (error.cause, SECRET in str(error)) == ("http_401", False)
    assert "wrong: Bearer ***" in error.detail
    error, _ = failure(lambda number, headers: (401, {}, f"{'x' * 195}{SECRET}".encode()))
    assert SECRET[:5] not in error.detail


# ---------------------------------------------------------------- proxies


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.9.9.9", "0.0.0.0", "[::1]"])
def test_this_machine_is_never_asked_through_a_proxy(monkeypatch, host):
    with serving(saying("from the proxy")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
        monkeypatch.setenv("ALL_PROXY", proxy.url.removesuffix("/v1"))
        # Nobody listens on [::1], and some systems know one address of 127.0.0.0/8 only.
        with serving(saying("2")) as server, suppress(NoAnswer):
            assert ask(server.url.replace("127.0.0.1", host), retries=0).text == "2"
        assert not proxy.asked


def test_another_machine_is_asked_through_the_proxy(monkeypatch):
    with serving(saying("from the proxy")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
        assert ask("http://server.invalid/v1").text == "from the proxy"
    assert proxy.asked[0][0] == "http://server.invalid/v1/chat/completions"


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ALL_PROXY", "http://[::1"), ("SSL_CERT_FILE", "no.pem"), ("ALL_PROXY", "gopher://a:1")],
)
def test_an_environment_that_is_of_no_use(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(EndpointError, match=rf"http://server\.invalid/v1: no connection can be set up.*{variable}"):
        ask("http://server.invalid/v1")


# ---------------------------------------------------------------- answers that are none


@pytest.mark.parametrize(
    ("reply", "cause", "shown"),
    [
        ((200, {}, {"error": {"message": "model is loading"}}), "malformed", "model is loading"),
        ((200, {}, b"<html>\n\n busy </html>"), "malformed", "<html> busy </html>"),
        ((200, {}, {"choices": [{"message": None}]}), "malformed", "not a chat completion"),
        ((200, {}, completion(None, reasoning_content="hm")), "malformed", "enable_thinking: false"),
        ((200, {}, completion(None)), "malformed", "content is None, not a text"),
        ((200, {}, rb'{"choices": [{"message": {"content": "\ud800"}}]}'), "malformed", "surrogate"),
        ((400, {}, {"error": {"message": "too long", "code": 7}}), "http_400", '"code": 7'),
        ((400, {"Content-Type": "text/plain; charset=hex"}, "viel zu groß".encode()), "http_400", "viel zu groß"),
        ((400, {}, b"a\x1b[31mb\x07"), "http_400", r"a\x1b[31mb\x07"),
        ((400, {}, b"x" * 10**6), "http_400", "x" * 200),
        ((400, {}, b""), "http_400", ""),
        ((307, {"Location": "http://127.0.0.1:1/v1"}, {}), "http_307", ""),
    ],
)
def test_the_words_of_the_server_are_shown(reply, cause, shown):
    error, attempts = failure(lambda *_: reply)
    assert (error.cause, attempts) == (cause, 1)
    assert shown in error.detail
    assert len(error.detail) < 300


@pytest.mark.parametrize("status", [200, 400])
def test_an_answer_that_unpacks_to_gigabytes_is_not_unpacked(status):
    import gzip

    body = gzip.compress(b"0" * (256 << 20), 9)  # 256 KB
    peak = []

    async def ask(server):
        async with ChatClient(Endpoint(base_url=server.url, retries=2, backoff=0)) as client:
            with pytest.raises(NoAnswer, match="malformed: the answer is longer than 64 MiB"):
                await client.complete("m", CHAT)
            peak.append(len(server.asked))

    with serving(lambda *_: (status, {"Content-Encoding": "gzip"}, body)) as server:
        asyncio.run(ask(server))
    assert peak == [1]  # the next answer would be no shorter
