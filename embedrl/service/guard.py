"""What stands before every route: the token, the host's name, the size of a request, and the counters of `/metrics`."""

from __future__ import annotations

import hmac
import json
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embedrl.service.lane import Lane
from embedrl.service.options import ServiceLimits

OPEN = ("/", "/health")
"""Routes that need no token: the page itself holds no data; neither do its files below `/page/`."""


class Meters:
    """Counters of a service, as Prometheus reads them.

    Args:
        lane: The queue before the models.

    Attributes:
        registry: What `/metrics` prints.
    """

    def __init__(self, lane: Lane[Any, Any]) -> None:
        self.registry = CollectorRegistry()
        names = ("route", "status")
        self.requests = Counter("embedrl_requests", "Requests by route and status", names, registry=self.registry)
        self.seconds = Histogram("embedrl_request_seconds", "Time of a request", ("route",), registry=self.registry)
        self.items = Counter("embedrl_items", "Items that went through a model", ("kind",), registry=self.registry)
        waiting = Gauge("embedrl_waiting_requests", "Requests that wait for the models", registry=self.registry)
        waiting.set_function(lambda: float(lane.waiting))


class _TooLargeError(Exception):
    """A request's body is longer than it may be."""


class Guard:
    """The outermost layer of a service (ASGI).

    Args:
        app: What it stands before.
        limits: The service's bounds.
        meters: Where requests are counted.
        token: What a request must bring as `Authorization: Bearer ...`; None: nothing.
        hosts: Names under which the service may be addressed, so that no web page reaches one that listens to this
            machine alone under a name of its own; None: any.
    """

    def __init__(
        self, app: ASGIApp, limits: ServiceLimits, meters: Meters, token: str | None, hosts: frozenset[str] | None
    ) -> None:
        self.app, self.limits, self.meters, self.token, self.hosts = app, limits, meters, token, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await _answer(counted, *refusal)
            else:
                await self._pass(scope, receive, counted)
        finally:
            route = getattr(scope.get("route"), "path", None) or "other"
            self.meters.requests.labels(route, str(status)).inc()
            self.meters.seconds.labels(route).observe(time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").rsplit(":", 1)[0].strip("[]").lower()
        if self.hosts is not None and host not in self.hosts:
            return 421, f"this service is not called {host!r}"
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.limits.max_body:
            return 413, f"the request has more than {self.limits.max_body} bytes"
        path = scope["path"]
        if self.token is not None and path not in OPEN and not path.startswith("/page/"):
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
                return 401, "give the service's token: Authorization: Bearer ..."
        return None

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the bytes of a body whose length was not told beforehand."""
        size, begun = 0, False

        async def measured() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.limits.max_body:
                raise _TooLargeError
            return message

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, measured, noted)
        except _TooLargeError:
            if begun:
                raise
            await _answer(send, 413, f"the request has more than {self.limits.max_body} bytes")


_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'"),
]


async def _answer(send: Send, status: int, what: str) -> None:
    body = json.dumps({"error": {"message": what, "code": status}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
