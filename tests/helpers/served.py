"""A service that runs in a thread of the test, and a small index to serve."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image

import embedrl
from embedrl.data.world import WorldSource
from embedrl.index import Index
from embedrl.service.app import make_app
from embedrl.service.models import ServedModels

MARKUP = "<img src=x onerror=alert(1)>"
"""The text of the first item: a page must show it as it is."""


def small_index(folder: Path, count: int = 6) -> Index:
    """An index of pictures of the world, of the base model, which can reason as well."""
    folder.mkdir(parents=True, exist_ok=True)
    source = WorldSource("t2i", size=count)
    items = []
    for i in range(count):
        path = folder / f"picture_{i}.png"
        source[i].target.images[0].load().save(path)
        item = {"image": str(path), "tcot": source[i].target.tcot, "year": 2000 + i}
        items.append(item | ({"text": MARKUP} if i == 0 else {}))
    reasoner = embedrl.Reasoner.from_pretrained("embedrl:world_base", style="brief", max_new_tokens=24)
    embedder = embedrl.Embedder.from_pretrained("embedrl:world_base")
    index = Index.create(folder / "index.lance", embedder)
    index.add(items, on_bad="raise")
    return Index.open(folder / "index.lance", embedder, reasoner)


@contextmanager
def served(models: ServedModels, **options: Any) -> Iterator[str]:
    """The address of a service of these models."""
    config = uvicorn.Config(make_app(models, **options), "127.0.0.1", 0, log_level="warning", access_log=False)
    socket = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)


def ask(url: str, body: Any = None, headers: Mapping[str, str] = {}, raw: bytes | None = None) -> tuple[int, Any]:
    """Status and content of an answer."""
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, _content(answer)
    except urllib.error.HTTPError as error:
        return error.code, _content(error)


def _content(answer: Any) -> Any:
    text = answer.read().decode()
    return json.loads(text) if "json" in answer.headers.get("content-type", "") else text


def base64_of(image: Image.Image, kind: str = "PNG") -> str:
    """A picture's file as base64."""
    file = io.BytesIO()
    image.save(file, kind)
    return base64.b64encode(file.getvalue()).decode()
