"""The service over HTTP: what it answers, and what it refuses."""

import asyncio
import base64
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from openai import OpenAI
from PIL import Image
from served import ask, base64_of, served, small_index

import embedrl
from embedrl.inference import Reranker
from embedrl.service.lane import Lane
from embedrl.service.models import ServedModels
from embedrl.service.options import ServiceLimits
from embedrl.types import Side

RED = Image.new("RGB", (64, 48), "red")
LIMITS = ServiceLimits(max_body=200_000, max_items=8, max_text=500, max_pixels=200_000, max_k=12, queue=100)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return small_index(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def url(index):
    with served(ServedModels(index), limits=LIMITS) as address:
        yield address


def test_embeddings_are_those_of_the_embedder(index, url):
    texts = ["a red star", "no/such.png", "find the picture : a blue circle ."]
    status, answer = ask(f"{url}/v1/embeddings", {"input": [*texts, {"text": "x", "image": base64_of(RED)}]})
    assert status == 200
    assert [row["index"] for row in answer["data"]] == [0, 1, 2, 3]
    items = [*({"text": text} for text in texts), {"text": "x", "image": RED}]
    expected = index.embedder.encode(items, reason=False)
    np.testing.assert_allclose([row["embedding"] for row in answer["data"]], expected, atol=1e-5)
    url_of_data = f"data:image/png;base64,{base64_of(RED)}"
    status, again = ask(f"{url}/v1/embeddings", {"input": {"text": "x", "image": url_of_data}})
    np.testing.assert_allclose(again["data"][0]["embedding"], expected[3], atol=1e-5)


def test_openais_own_client_reads_them(index, url):
    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    answer = client.embeddings.create(model="embedrl", input=["a red star", "a blue star"])  # it asks for base64
    expected = index.embedder.encode([{"text": "a red star"}, {"text": "a blue star"}], reason=False)
    np.testing.assert_allclose([row.embedding for row in answer.data], expected, atol=1e-5)
    status, raw = ask(f"{url}/v1/embeddings", {"input": "a red star", "encoding_format": "base64"})
    assert status == 200
    values = np.frombuffer(base64.b64decode(raw["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(values, expected[0], atol=1e-5)


def test_a_search_is_the_indexs_own(index, url):
    for body in ({"text": "a red star"}, {"image": base64_of(RED)}, {"text": "red", "where": "year >= 2003"}):
        status, answer = ask(f"{url}/search", {"k": 3, **body})
        assert status == 200, answer
        given = {**body, "image": RED} if "image" in body else body
        expected = index.search(k=3, **given)
        assert [hit["key"] for hit in answer["hits"]] == [hit.key for hit in expected]
        for hit, own in zip(answer["hits"], expected, strict=True):
            assert hit["score"] == pytest.approx(own.score, abs=1e-5)
            assert hit["thumbnail"].startswith("data:image/jpeg;base64,")
            assert hit["evidence"].get("boxes") == own.evidence.get("boxes")
            assert hit["metadata"] == own.metadata
        assert answer["query"]["tcot"] == ""
    assert all(hit["metadata"]["year"] >= 2003 for hit in answer["hits"])


def test_the_reasoner_reads_the_query_first(index, url):
    status, answer = ask(f"{url}/search", {"text": "a red star", "k": 2, "reason": True})
    assert status == 200
    thought = index.reasoner.reason(text="a red star")
    assert answer["query"]["tcot"] == thought.text
    assert answer["query"]["picture"].startswith("data:image/png;base64,")
    assert [hit["key"] for hit in answer["hits"]] == [h.key for h in index.search("a red star", k=2, reason=True)]


def test_reranking(index):
    reranker = Reranker(index.reasoner.generator, style="brief")
    documents = ["a red star", "a blue circle", "a green cross"]
    with served(ServedModels(index, reranker)) as url:
        status, answer = ask(f"{url}/v1/rerank", {"query": "red", "documents": documents, "return_documents": True})
        scores = reranker.score(Side("red"), [Side(text) for text in documents]).tolist()
        order = sorted(range(3), key=lambda i: -scores[i])
        assert (status, answer["by"]) == (200, "reranker")
        assert [row["index"] for row in answer["results"]] == order
        assert [row["relevance_score"] for row in answer["results"]] == pytest.approx(sorted(scores)[::-1], abs=1e-5)
        assert [row["document"]["text"] for row in answer["results"]] == [documents[i] for i in order]
        status, found_again = ask(f"{url}/search", {"text": "a red star", "k": 4, "rerank": 3})
        assert status == 200
        plain = [hit.key for hit in index.search("a red star", k=4)]
        keys = [hit["key"] for hit in found_again["hits"]]
        assert sorted(keys[:3]) == sorted(plain[:3])
        assert keys[3] == plain[3]


def test_without_a_reranker_the_embedder_orders(index, url):
    status, answer = ask(f"{url}/v1/rerank", {"query": "a red star", "documents": ["a red star", "menu"], "top_n": 1})
    assert (status, answer["by"], len(answer["results"])) == (200, "embedder", 1)
    vectors = index.embedder.encode([{"text": "a red star"}, {"text": "menu"}], reason=False)
    best = int(np.argmax(vectors @ vectors[0]))
    assert answer["results"][0]["index"] == best


BAD = {  # route, body, status, words of the answer
    "no input": ("/v1/embeddings", {}, 422, "input: Field required"),
    "empty": ("/v1/embeddings", {"input": []}, 400, "at least one item"),
    "blank": ("/v1/embeddings", {"input": ["x", " "]}, 400, "input[1]: neither a text nor a picture"),
    "too many": ("/v1/embeddings", {"input": ["x"] * 9}, 400, "9 items, more than 8"),
    "too long": ("/v1/embeddings", {"input": "x" * 501}, 400, "501 characters, more than 500"),
    "other length": ("/v1/embeddings", {"input": "x", "dimensions": 7}, 400, "dimensions: 7"),
    "a file": ("/v1/embeddings", {"input": {"image": "/etc/passwd"}}, 400, "not base64"),
    "a file's address": ("/search", {"image": "file:///etc/passwd"}, 400, "an address; nothing is fetched"),
    "an address": ("/search", {"image": "http://127.0.0.1:1/x.png"}, 400, "an address; nothing is fetched"),
    "data, not base64": ("/search", {"image": "data:image/png,abc"}, 400, "not base64"),
    "no picture": (
        "/search",
        {"image": base64.b64encode(b"GIF89a?").decode()},
        400,
        "cannot decode the picture of query (none of",
    ),
    "a large picture": (
        "/search",
        {"image": base64_of(Image.new("1", (1000, 201)))},
        400,
        "more than max_pixels=200000",
    ),
    "a thin picture": ("/search", {"image": base64_of(Image.new("1", (1000, 2)))}, 400, "more than 200 times"),
    "no query": ("/search", {}, 400, "neither a text nor a picture"),
    "k": ("/search", {"text": "x", "k": 13}, 400, "k: at most 12"),
    "k 0": ("/search", {"text": "x", "k": 0}, 422, "k: "),
    "bad SQL": ("/search", {"text": "x", "where": "year >"}, 400, "year >"),
    "SQL that writes": ("/search", {"text": "x", "where": "1=1; DROP TABLE items"}, 400, "where"),
    "unknown column": ("/search", {"text": "x", "where": "nothing = 1"}, 400, "nothing"),
    "hybrid without words": ("/search", {"image": base64_of(RED), "hybrid": True}, 400, "hybrid"),
    "no reranker": ("/search", {"text": "x", "rerank": 3}, 400, "no reranker"),
    "unknown field": ("/search", {"text": "x", "path": "/etc"}, 422, "path: Extra inputs"),
    "wrong type": ("/v1/rerank", {"query": 3, "documents": ["x"]}, 422, "query"),
    "no route": ("/nothing", {}, 404, "Not Found"),
    "out of the page's folder": ("/page/../app.py", None, 404, "Not Found"),
    "out of it, encoded": ("/page/..%2f..%2f..%2fpyproject.toml", None, 404, "Not Found"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_one_line(url, case):
    route, body, status, words = BAD[case]
    got, answer = ask(url + route, body)
    assert got == status, answer
    message = answer["error"]["message"]
    assert words.lower() in message.lower()
    assert "\n" not in message
    assert "Traceback" not in message


@pytest.mark.parametrize("raw", [b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"input": NaN', b"[" * 5000, b'"x"'])
def test_broken_json_is_refused(url, raw):
    status, answer = ask(f"{url}/v1/embeddings", raw=raw)
    assert status in (400, 422), answer
    assert "\n" not in answer["error"]["message"]
    assert ask(f"{url}/health")[0] == 200


def test_a_body_that_is_too_large_is_not_read(url):
    status, answer = ask(f"{url}/v1/embeddings", raw=b'{"input": "' + b"x" * 300_000 + b'"}')
    assert (status, answer["error"]["message"]) == (413, "the request has more than 200000 bytes")


def test_the_page_and_the_facts(url, index):
    status, page = ask(f"{url}/")
    assert status == 200
    assert "<title>embedrl search</title>" in page
    assert ask(f"{url}/page/page.js")[0] == 200
    status, facts = ask(f"{url}/about")
    assert (status, facts["rows"], facts["reasoner"], facts["reranker"]) == (200, len(index), True, False)
    assert ask(f"{url}/health") == (200, {"status": "ok", "version": embedrl.__version__})
    status, meters = ask(f"{url}/metrics")
    assert 'embedrl_requests_total{route="/v1/embeddings",status="200"}' in meters
    assert "embedrl_waiting_requests 0.0" in meters


def test_a_token_and_a_hosts_name(index):
    token = "0123456789abcdef"
    with served(ServedModels(index), token=token, hosts=frozenset({"127.0.0.1"})) as url:
        for given in ({}, {"authorization": token}, {"authorization": "Bearer 0123456789abcdeX"}):
            assert ask(f"{url}/search", {"text": "x"}, given)[0] == 401
            assert ask(f"{url}/metrics", None, given)[0] == 401
        assert ask(f"{url}/search", {"text": "x"}, {"authorization": f"Bearer {token}"})[0] == 200
        assert ask(f"{url}/health")[0] == 200
        assert ask(f"{url}/")[0] == 200
        assert ask(f"{url}/health", None, {"host": "evil.example"})[0] == 421


def test_a_full_queue_is_429_and_nothing_is_lost(index):
    gate, slow = threading.Event(), ServedModels(index)
    inner = slow.run

    def waiting(kind, work):
        gate.wait(30)
        return inner(kind, work)

    slow.run = waiting  # type: ignore[method-assign]
    with served(slow, limits=ServiceLimits(queue=2, batch=1)) as url, ThreadPoolExecutor(8) as pool:
        asked = []
        for number in range(8):
            asked.append(pool.submit(ask, f"{url}/v1/embeddings", {"input": f"text {number}"}))
            time.sleep(0.1)
        gate.set()
        codes = [one.result()[0] for one in asked]
    assert sorted(set(codes)) == [200, 429]
    assert codes.count(200) == 3  # one in work, two that wait


def test_a_request_that_takes_too_long_is_given_up(index):
    slow = ServedModels(index)
    inner = slow.run

    def late(kind, work):
        time.sleep(1.0)
        return inner(kind, work)

    slow.run = late  # type: ignore[method-assign]
    with served(slow, limits=ServiceLimits(timeout=0.3)) as url:
        status, answer = ask(f"{url}/v1/embeddings", {"input": "x"})
        assert (status, answer["error"]["message"]) == (504, "the request took too long and was given up")
        assert ask(f"{url}/health")[0] == 200


def test_concurrent_requests_get_their_own_answers(index, url):
    texts = [
        f"{color} {shape}" for color in ("red", "blue", "green") for shape in ("star", "cross", "circle", "square")
    ]
    expected = index.embedder.encode([{"text": text} for text in texts], reason=False)
    order = random.Random(0).choices(range(len(texts)), k=48)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda i: ask(f"{url}/v1/embeddings", {"input": texts[i]}), order))
    for i, (status, answer) in zip(order, answers, strict=True):
        assert status == 200
        np.testing.assert_allclose(answer["data"][0]["embedding"], expected[i], atol=1e-5)


def test_shutdown_finishes_what_waits(index):
    async def lanes():
        done = []
        lane = Lane(lambda kind, work: [done.append(w) or w * 2 for w in work], 10, 2)
        lane.start()
        results = [asyncio.ensure_future(lane.submit("a", [i])) for i in range(5)]
        await asyncio.sleep(0)
        await lane.stop()
        return await asyncio.gather(*results), done

    results, done = asyncio.run(lanes())
    assert results == [[0], [2], [4], [6], [8]]
    assert done == [0, 1, 2, 3, 4]
