"""What a server answers, byte by byte, to everything that asks one."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import threading
import zlib
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from embedrl.construction.annotate import annotate, request_tcot
from embedrl.construction.filter import filter_pairs
from embedrl.construction.judgement import Judgement, JudgementStore
from embedrl.construction.vlm import EndpointVLM
from embedrl.data.mix import MixRow
from embedrl.models.sampling import SamplingOptions
from embedrl.rl.rewards.endpoint import EndpointJudge
from embedrl.rl.rewards.judge import Question
from embedrl.rl.vllm.protocol import read_replies, to_request
from embedrl.tcot.chat import reasoning_chat
from embedrl.tcot.store import TCoTJournal
from embedrl.types import Modality, Pair, Role, Side
from embedrl.utils.chat_client import NoAnswer
from fuzzing.mutate import TEXTS, VALUES, Draw, broken, json_bytes, mutated
from fuzzing.rows import TEXT_TCOT

_TOP = {"token": "Yes", "logprob": -0.1}
_LOGPROBS = {"content": [{**_TOP, "top_logprobs": [_TOP, {"token": "No", "logprob": -2.0}]}]}
_ANSWER: dict[str, Any] = {
    "id": "x", "object": "chat.completion", "model": "m", "prompt_token_ids": [1, 2],
    "choices": [{
        "index": 0, "finish_reason": "stop", "logprobs": _LOGPROBS, "token_ids": [7],
        "message": {"role": "assistant", "content": TEXT_TCOT, "reasoning_content": "hm"},
    }],
}  # fmt: skip
_HEADERS = [
    "Content-Type: application/json", "Content-Type: text/html; charset=utf-7", "Content-Type: x; charset=\xff",
    "Retry-After: 0",
    "Retry-After: -1", "Retry-After: 9999999999999999999999", "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT",
    "retry-after-ms: nan",
    "Retry-After: Sat, 99 Foo", "x-should-retry: true", "Location: /v1/chat/completions", "Location: http://[::1",
    "Location: ftp://x",
    "Set-Cookie: a=\xff; Domain=..", "Content-Encoding: br", "Content-Encoding: deflate", "Content-Encoding: x",
    "Connection: keep-alive",
    "Transfer-Encoding: chunked", "Content-Length: 99", "Content-Length: -1", "Content-Length: x", "Trailer: x",
    "X: " + "y" * 9000,
    "Date: x", "Upgrade: h2c", "WWW-Authenticate: Digest", "Content-Range: bytes 0-0/0", "no colon", ": empty",
    "A\x00: b",
]  # fmt: skip


class _Server(threading.Thread):
    """Answers every request with the same bytes, and closes the connection."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"
        self.answer = b""

    def run(self) -> None:
        while True:
            connection, _ = self.socket.accept()
            with connection:
                try:
                    connection.settimeout(2)
                    self._read(connection)
                    connection.sendall(self.answer)
                except OSError:
                    continue

    def _read(self, connection: socket.socket) -> None:
        content = b""
        while b"\r\n\r\n" not in content and (piece := connection.recv(1 << 16)):
            content += piece
        head, _, body = content.partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        while len(body) < length and (piece := connection.recv(1 << 16)):
            body += piece


@cache
def _server() -> _Server:
    os.environ.update(dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), ""))
    server = _Server()
    server.start()
    return server


class _Texts:
    """Two pairs of texts."""

    name, modality = "texts", Modality.TEXT

    def __init__(self, tcot: str) -> None:
        self.tcot = tcot

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Pair:
        return Pair(Side(f"a {index}", tcot=self.tcot), Side(f"b {index}", tcot=self.tcot), self.name, str(index))


def servers(data: Draw, folder: Path) -> None:
    """One answer, to one of those that ask."""
    server = _server()
    who = data.draw(st.sampled_from(["tcot", "yes", "judge", "judge", "annotate", "filter", "rollouts"]), label="who")
    if who == "rollouts":
        options = SamplingOptions(max_new_tokens=4, temperature=1.0, top_p=1.0, stop=("</answer>",))
        chat = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
        request = to_request(chat, "m", 1, 3, options, ())
        read_replies(mutated(data, _ANSWER), request, [1, 2], (5,), "http://x (m)")
        return
    server.answer = _answer(data)
    asked = {
        "base_url": server.url,
        "model": "m",
        "timeout": 0.5,
        "backoff": 0,
        "retries": data.draw(st.integers(0, 1)),
    }
    if who == "judge":
        questions = [Question(str(i), "which?", 2) for i in range(2)]
        verdicts = EndpointJudge(**asked, total_timeout=2).choose(questions)
        assert len(verdicts) == 2
        return
    vlm = EndpointVLM(**asked)
    on_bad = data.draw(st.sampled_from(["raise", "skip"]), label="on_bad")
    if who == "annotate":
        annotate([MixRow(_Texts(""))], vlm, folder / "out", attempts=2, on_bad=on_bad, patience=3)
    elif who == "filter":
        filter_pairs([MixRow(_Texts(TEXT_TCOT))], folder / "out", vlm, checks=["format"], on_bad=on_bad, patience=3)
    else:
        asyncio.run(_ask(vlm, who, folder))


async def _ask(vlm: EndpointVLM, who: str, folder: Path) -> None:
    side = Side("some words")
    async with vlm.session():
        try:
            if who == "yes":
                answer = await vlm.yes_or_no([{"role": "user", "content": [{"type": "text", "text": "a"}]}])
                assert answer.p_yes is None or 0 <= answer.p_yes <= 1
                assert answer.mass is None or answer.mass >= 0
                with JudgementStore(folder / "verdicts.jsonl") as store:
                    store.put(Judgement("k", answer.text, answer.p_yes, answer.mass))
                with JudgementStore(folder / "verdicts.jsonl", read_only=True) as store:
                    judgement = store.get("k")
                    assert judgement is not None
                    assert judgement.verdict(0.5, 0.5) in ("yes", "no", "unclear")
            else:
                record = None
                for _ in range(2):
                    chat = reasoning_chat(side, Role.QUERY, Modality.TEXT)
                    record = await request_tcot(vlm, chat, side, "k", record)
                    with TCoTJournal(folder / "tcots.jsonl") as journal:
                        journal.put(record)
        except NoAnswer as failure:
            if not failure.detail.isprintable():
                raise AssertionError(repr(failure.detail)) from failure


def _answer(data: Draw) -> bytes:
    """A whole HTTP answer; now and then it is broken, or none."""
    status = data.draw(
        st.sampled_from([*[200] * 8, 204, 206, 301, 307, 400, 401, 404, 408, 413, 429, 500, 503, 100, 999, 0]),
        label="status",
    )
    body = _body(data)
    headers = data.draw(st.lists(st.sampled_from(_HEADERS), max_size=3), label="headers")
    packing = data.draw(st.sampled_from(["", "", "", "gzip", "bomb", "chunked", "deflate"]), label="packing")
    if packing in ("gzip", "bomb"):
        body = gzip.compress(body + b" " * (1 << 24) * (packing == "bomb"))
        headers.append("Content-Encoding: gzip")
    elif packing == "deflate":
        body = zlib.compress(body)
        headers.append("Content-Encoding: deflate")
    elif packing == "chunked":
        body = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
        headers.append("Transfer-Encoding: chunked")
    if packing and data.draw(st.booleans(), label="broken body"):
        body = broken(data, body, most=2)
    if packing != "chunked" and data.draw(st.integers(0, 4), label="sized"):
        headers.append(f"Content-Length: {max(0, len(body) + data.draw(st.sampled_from([0, 0, 0, 1, -1, 10**6])))}")
    head = "\r\n".join([f"HTTP/1.1 {status} x", *headers]).encode("latin-1", "replace")
    content = head + b"\r\n\r\n" + body
    return broken(data, content) if data.draw(st.integers(0, 5), label="broken") == 5 else content


def _body(data: Draw) -> bytes:
    kind = data.draw(st.sampled_from(["answer"] * 5 + ["words", "value", "error"]), label="body")
    if kind == "words":
        document = mutated(data, _ANSWER, 0)
        words = st.sampled_from(["Yes", "No", "yes.", "Maybe", "1", "2", "3", "12", "", "<think>", TEXT_TCOT])
        document["choices"][0]["message"]["content"] = data.draw(st.one_of(words, TEXTS), label="words")
    elif kind == "value":
        document = data.draw(VALUES, label="document")
    elif kind == "error":
        document = {"error": {"message": data.draw(TEXTS, label="message"), "code": 400}}
    else:
        document = mutated(data, _ANSWER)
    return json_bytes(data, document)
