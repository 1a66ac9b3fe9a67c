"""Asking a model behind an OpenAI-compatible endpoint: vLLM, SGLang, `transformers serve`, a hosted model."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
import re
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

import httpx2
from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI, Omit

from embedrl.errors import ConfigError, EndpointError
from embedrl.utils.chat_answer import first_token, hint

T = TypeVar("T")
LONGEST = 64 << 20  # bytes of an answer, unpacked


class NoAnswer(Exception):  # noqa: N818  # not an EmbedRLError: the caller decides what it means
    """An endpoint did not answer one request, for good.

    Attributes:
        cause: `timeout`, `unreachable`, `http_500` (and other statuses) or `malformed` (no chat completion).
        detail: Further details, in one line.
    """

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause, self.detail = cause, detail


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer.

    Attributes:
        text: What the model wrote.
        truncated: Whether it was cut off at the longest length.
        first: Log-probabilities of the likeliest tokens where the first word begins, after spaces, quotes and other
            marks; None if the endpoint does not return them.
    """

    text: str
    truncated: bool = False
    first: Mapping[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a model is served, and how patiently it is asked. Subclasses give other defaults.

    Args:
        base_url: Address up to and with the version, e.g. `http://127.0.0.1:8000/v1`.
        timeout: Seconds for one attempt, the whole answer included.
        retries: Further attempts after a time-out, a failed connection, or status 408, 409, 429 or 5xx.
        backoff: Seconds before the first retry; each further one waits about twice as long, 30 s at most. What the
            server asks for by `Retry-After` goes first, up to two minutes; if it is more, there is no retry.
        concurrency: Requests under way at once, from each process.
        extra: Further fields of every chat request, e.g. `{chat_template_kwargs: {enable_thinking: false}}`.
        api_key_env: Environment variable that holds the key; without it no key is sent.

    Raises:
        ConfigError: If an option is out of its range, or no header can hold the key.
    """

    slot: ClassVar[str] = "endpoint"  # how errors name the options

    base_url: str
    timeout: float = 300.0
    retries: int = 3
    backoff: float = 1.0
    concurrency: int = 32
    extra: dict[str, Any] | None = None
    api_key_env: str = "OPENAI_API_KEY"

    def __post_init__(self) -> None:
        if not _is_address(self.base_url):
            shown = re.sub("//.*@", "//***@", self.base_url)
            raise ConfigError(f"{self.slot}.base_url is {shown!r}: give an address such as http://127.0.0.1:8000/v1")
        if not self.timeout > 0:
            raise ConfigError(f"{self.slot}.timeout is {self.timeout}: give seconds above 0")
        for name, least in (("retries", 0), ("backoff", 0), ("concurrency", 1)):
            if not getattr(self, name) >= least:
                raise ConfigError(f"{self.slot}.{name} is {getattr(self, name)}: give {least} or more")
        self.key()

    @property
    def address(self) -> str:
        """The address as logs and errors may show it: without a password and a query."""
        return str(httpx2.URL(self.base_url).copy_with(userinfo=b"", query=None)).rstrip("/")

    def key(self) -> str:
        """The key, read anew so that nothing keeps it; empty without one.

        Raises:
            ConfigError: If no header can hold it.
        """
        key = os.environ.get(self.api_key_env, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise ConfigError(
                f"{self.slot}.api_key_env: the value of {self.api_key_env} holds characters that no header may hold: "
                "set the key alone, in one line"
            )
        return key


class ChatClient:
    """Asks an endpoint over a pool of connections; an async context manager.

    Requests, retries and connections are those of `openai.AsyncOpenAI`. Its time-out bounds each read, so an attempt
    as a whole gets a bound of its own. Its headers about this machine, and those that the environment holds for
    OpenAI's servers (`OPENAI_ORG_ID`, …), are not sent. This machine is asked without a proxy.

    Args:
        endpoint: Whom to ask, and how patiently.

    Raises:
        EndpointError: If the proxy or the certificates that the environment names are of no use.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint, self._key = endpoint, endpoint.key()
        url = httpx2.URL(endpoint.base_url)
        auth = httpx2.BasicAuth(url.username, url.password) if url.userinfo else None
        try:
            http = _BoundedClient(
                endpoint.timeout,
                auth=auth,
                limits=httpx2.Limits(max_connections=endpoint.concurrency),
                mounts={f"all://{url.netloc.decode()}": None} if _is_this_machine(url.host) else None,  # no proxy
            )
        except (ImportError, OSError, ValueError, httpx2.InvalidURL) as error:
            raise EndpointError(
                f"{endpoint.address}: no connection can be set up ({error}): check the variables HTTP_PROXY, "
                "HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
            ) from error
        self._openai = _OpenAI(
            api_key=self._key or "none",  # without one AsyncOpenAI looks for another; see `_headers`
            base_url=url.copy_with(userinfo=b"", query=None),
            default_query=dict(url.params),
            timeout=None,
            max_retries=endpoint.retries,
            http_client=http,
        )
        self._openai.backoff = endpoint.backoff
        self._headers = {} if self._key else {"Authorization": Omit()}

    async def __aenter__(self) -> Self:
        """The client itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self._openai.close()

    async def complete(self, model: str, messages: Sequence[Mapping[str, Any]], **options: Any) -> Completion:
        """The answer to a chat.

        Args:
            model: Name of the model there.
            messages: The chat in OpenAI's form.
            **options: Further fields of the request: `max_tokens`, `temperature`, ….

        Raises:
            NoAnswer: If there is none after all attempts.
        """
        body = {"model": model, "messages": [*messages], **options, **(self.endpoint.extra or {})}
        response = await self.post("chat/completions", body)
        try:
            choice = response.json()["choices"][0]
            message = choice["message"]
            text = message["content"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise NoAnswer("malformed", f"not a chat completion: {self._shown(response.text)}") from error
        if not isinstance(text, str):
            raise NoAnswer("malformed", f"the answer's content is {text!r:.60}, not a text{hint(message)}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise NoAnswer("malformed", "the answer holds half a character (a lone surrogate)") from error
        return Completion(text, choice.get("finish_reason") == "length", first_token(choice))

    async def post(self, path: str, body: Mapping[str, Any]) -> httpx2.Response:
        """The response to `POST <base_url>/<path>`.

        Args:
            path: What follows `base_url` and a slash.
            body: What is sent, as JSON.

        Raises:
            NoAnswer: If there is none after all attempts, or one with an error status.
        """
        try:
            return await self._openai.post(
                f"/{path}", body=body, cast_to=httpx2.Response, options={"headers": self._headers}
            )
        except APITimeoutError as error:
            raise NoAnswer("timeout", f"none within {self.endpoint.timeout:g} s") from error
        except APIStatusError as error:
            raise NoAnswer(f"http_{error.status_code}", self._shown(error.response.text)) from error
        except APIConnectionError as error:
            raise NoAnswer("unreachable", self._shown(str(error.__cause__) or repr(error.__cause__))) from error

    def _shown(self, text: str) -> str:
        """A server's words in one line, without secrets and without what steers a terminal."""
        for secret in filter(None, (self._key, httpx2.URL(self.endpoint.base_url).password)):
            text = text.replace(secret, "***")
        text = " ".join(text[:1000].split())[:200]
        return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def run(asking: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, also where an event loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(asking)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, asking).result()


class _OpenAI(AsyncOpenAI):
    """AsyncOpenAI with pauses by `Endpoint.backoff`, and without headers that are none of a server's business."""

    backoff: float

    @property
    def default_headers(self) -> dict[str, str | Omit]:
        """Neither this machine's particulars nor what the environment holds for OpenAI's own servers."""
        return {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": "embedrl"}

    def _calculate_retry_timeout(
        self, remaining_retries: int, options: Any, response_headers: httpx2.Headers | None = None
    ) -> float:
        if response_headers is not None and {"retry-after", "retry-after-ms"} & {*response_headers}:
            return super()._calculate_retry_timeout(remaining_retries, options, response_headers)
        taken = min(self.max_retries - remaining_retries, 30)
        return min(30.0, self.backoff * (2.0**taken + random.random()))


class _BoundedClient(httpx2.AsyncClient):
    """An HTTP client whose `timeout` bounds a request as a whole; httpx's own start anew with each piece that arrives.

    Args:
        bound: Seconds for a request and its whole answer.
        **options: Those of `httpx2.AsyncClient`.
    """

    def __init__(self, bound: float, **options: Any) -> None:
        super().__init__(timeout=None, **options)
        self._bound = bound

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request and read the answer.

        Raises:
            ReadTimeout: If the answer is not there in time.
            NoAnswer: If it cannot be unpacked, or is too long; the next one would be, too.
        """
        try:
            async with asyncio.timeout(self._bound):
                response = await super().send(request, **{**options, "stream": True})
                content = bytearray()
                try:
                    async for piece in response.aiter_bytes():
                        content += piece
                        if len(content) > LONGEST:  # some kilobytes can unpack to gigabytes
                            raise NoAnswer("malformed", f"the answer is longer than {LONGEST >> 20} MiB")
                finally:
                    await response.aclose()
                response._content = bytes(content)  # as httpx's own `aread` does
        except TimeoutError as error:
            raise httpx2.ReadTimeout(str(error), request=request) from error
        except httpx2.DecodingError as error:
            raise NoAnswer("malformed", f"the answer cannot be unpacked: {error}") from error
        response.encoding = "utf-8"  # as JSON is, whatever the header says
        return response


def _is_address(base_url: str) -> bool:
    try:
        url = httpx2.URL(base_url)
    except httpx2.InvalidURL:
        return False
    return url.scheme in ("http", "https") and bool(url.host) and (url.port is None or 0 < url.port < 65536)


def _is_this_machine(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified
