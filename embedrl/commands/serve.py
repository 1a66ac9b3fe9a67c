"""`embedrl serve`: an index as a page to search with, and as a service for programs."""

from __future__ import annotations

import ipaddress
import os
import signal
import sys

from embedrl.commands.index import Device, open_with_models
from embedrl.errors import ConfigError
from embedrl.index.models import load_reranker
from embedrl.service.options import ServiceLimits
from embedrl.tcot.prompts import Style
from embedrl.utils.console import tell

TOKEN = "EMBEDRL_TOKEN"
"""The environment variable that may hold the token."""


def serve(
    index: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    embedder: str | None = None,
    reasoner: str | None = None,
    reranker: str | None = None,
    think: int = 0,
    style: Style | None = None,
    limits: ServiceLimits = ServiceLimits(),  # noqa: B008 - frozen
    device: Device = "auto",
) -> None:
    """Serve an index: a page at `/`, `POST /search`, `/v1/embeddings`, `/v1/rerank`, and `GET /health`, `/metrics`.

    Stops on Ctrl-C and SIGTERM, after the requests that are in work.

    Args:
        index: The index.
        host: Where to listen; an address that others can reach needs a token.
        port: The port; 0 takes a free one.
        token: What every request must bring, as `Authorization: Bearer ...`; by default the environment's
            EMBEDRL_TOKEN, where other users of the machine cannot see it.
        embedder: Where the index's model lies now, if not where it was.
        reasoner: A Reasoner for queries; by default the one that the index was made with, if it was.
        reranker: A model that learned to rerank; see configs/world/reranker.yaml.
        think: For a reranker that thinks (configs/world/reranker_thoughts.yaml): its longest thought in tokens.
        style: The prompt of Reasoner and reranker; by default the index's.
        limits: Bounds on what requests bring.
        device: Where to compute; auto takes a GPU if there is one.

    Raises:
        ConfigError: If a flag is wrong, or what the service needs is not installed.
        DataError: If there is no index.
        CheckpointError: If a model cannot be read.
    """
    token = token or os.environ.get(TOKEN)
    if not is_loopback(host) and not token:
        raise ConfigError(f"--host {host}: others can reach it; give --token, or set {TOKEN}")
    if token and (len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token):
        raise ConfigError("--token: give 16 or more ASCII characters without blanks")
    try:
        import uvicorn

        from embedrl.service.app import make_app
        from embedrl.service.models import ServedModels
    except ImportError as error:
        raise ConfigError(f"serve needs {error.name}: pip install embedrl[service]") from error
    from embedrl.index.index import Index

    made = Index.open(index).store.header["models"]
    opened = open_with_models(index, embedder, reasoner, device, bool(reasoner or made.get("reasoner")), style)
    read = load_reranker(reranker, device, style or made.get("style"), think)
    models = ServedModels(opened, read)
    hosts = frozenset({"localhost", "127.0.0.1", "::1", host.lower()}) if is_loopback(host) else None
    app = make_app(models, limits, token, hosts)
    config = uvicorn.Config(
        app, host, port, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=60
    )
    sockets = [config.bind_socket()]
    shown = f"[{host}]" if ":" in host else host
    tell(f"serving {index} ({len(opened):,} items) at http://{shown}:{sockets[0].getsockname()[1]}; Ctrl-C stops")
    # uvicorn ends in its own time on a signal, then raises it again: with the code that shells expect.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    uvicorn.Server(config).run(sockets=sockets)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
