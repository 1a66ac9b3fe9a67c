"""Chat completions from any OpenAI-compatible endpoint (vLLM, SGLang, `transformers serve`, a hosted model)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from embedrl.errors import ConfigError

T = TypeVar("T")


class NoAnswer(Exception):  # noqa: N818  # not an error of ours: whoever asks decides what it means
    """An endpoint did not answer one request, for good.

    Attributes:
        cause: `timeout`, `unreachable`, `http_500` (and other statuses) or `malformed` (no chat completion).
        detail: What else is known, in one line.
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
        first: Log-probabilities of the likeliest first tokens; None if the endpoint does not tell.
    """

    text: str
    truncated: bool = False
    first: Mapping[str, float] | None = None


class ChatEndpoint:
    """Asks `POST <base_url>/chat/completions`.

    Time-outs, refused connections, status 429 and 5xx are tried again with growing, jittered pauses.

    Args:
        base_url: Address up to and with the version, e.g. `http://127.0.0.1:8000/v1`.
        model: Name of the model there.
        timeout: Seconds for one attempt, the whole answer included.
        retries: Further attempts after a failed one.
        backoff: Seconds before the first retry; each further one waits about twice as long, 30 s at most.
        concurrency: Requests under way at once.
        api_key_env: Environment variable that holds the key; without it no key is sent.
        where: Name of the options in errors.

    Raises:
        ConfigError: If an option is out of its range.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        timeout: float = 30.0,
        retries: int = 2,
        backoff: float = 0.5,
        concurrency: int = 16,
        api_key_env: str = "OPENAI_API_KEY",
        where: str = "endpoint",
    ) -> None:
        if not _is_address(base_url):
            raise ConfigError(f"{where}.base_url is {base_url!r}: give an address such as http://127.0.0.1:8000/v1")
        if not timeout > 0:
            raise ConfigError(f"{where}.timeout is {timeout}: give seconds above 0")
        for name, number, least in (("retries", retries, 0), ("backoff", backoff, 0), ("concurrency", concurrency, 1)):
            if not number >= least:
                raise ConfigError(f"{where}.{name} is {number}: give {least} or more")
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.timeout = timeout
        self.retries = retries
        self.backoff = backoff
        self.concurrency = concurrency
        self.api_key_env = api_key_env

    @property
    def name(self) -> str:
        """What to call it in logs and errors."""
        return f"{self.base_url} ({self.model})"

    def client(self) -> httpx2.AsyncClient:
        """A client to ask with, as a context manager."""
        key = os.environ.get(self.api_key_env)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # The limit on an attempt is set around the whole of it: httpx's own restarts with every piece that arrives.
        return httpx2.AsyncClient(headers=headers, timeout=None, limits=httpx2.Limits(max_connections=self.concurrency))

    async def complete(
        self, client: httpx2.AsyncClient, messages: Sequence[Mapping[str, Any]], **options: Any
    ) -> Completion:
        """The answer to a chat.

        Args:
            client: What `client` returned, entered.
            messages: The chat in OpenAI's form.
            options: Further fields of the request: `max_tokens`, `temperature`, ….

        Raises:
            NoAnswer: If there is none after all attempts.
        """
        body = {"model": self.model, "messages": [*messages], **options}
        return _read(await self.post(client, "chat/completions", body))

    async def post(self, client: httpx2.AsyncClient, path: str, body: Mapping[str, Any]) -> httpx2.Response:
        """The response to `POST <base_url>/<path>`.

        Args:
            client: What `client` returned, entered.
            path: What follows `base_url` and a slash.
            body: What is sent, as JSON.

        Raises:
            NoAnswer: If there is none after all attempts, or one with an error status.
        """

        async def attempt() -> httpx2.Response:
            async with asyncio.timeout(self.timeout):
                response = await client.post(f"{self.base_url}/{path}", json=body)
            return response.raise_for_status()

        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.retries + 1),
            wait=wait_exponential_jitter(multiplier=self.backoff, max=30, jitter=self.backoff),
            retry=retry_if_exception(_may_pass),
            reraise=True,
        )
        try:
            response: httpx2.Response = await retrying(attempt)
        except TimeoutError as error:
            raise NoAnswer("timeout", f"none within {self.timeout:g} s") from error
        except httpx2.HTTPStatusError as error:
            raise NoAnswer(f"http_{error.response.status_code}", _one_line(error.response.text)) from error
        except httpx2.TransportError as error:
            raise NoAnswer("unreachable", _one_line(str(error))) from error
        except httpx2.DecodingError as error:
            raise NoAnswer("malformed", _one_line(str(error))) from error
        return response


def run(asking: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, also where an event loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(asking)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, asking).result()


def _read(response: httpx2.Response) -> Completion:
    try:
        choice = response.json()["choices"][0]
        text = choice["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise NoAnswer("malformed", "not a chat completion") from error
    if not isinstance(text, str):
        raise NoAnswer("malformed", f"the answer's content is {text!r:.60}, not a text")
    return Completion(text, choice.get("finish_reason") == "length", _first_token(choice))


def _first_token(choice: Mapping[str, Any]) -> Mapping[str, float] | None:
    """The likeliest first tokens; None where the endpoint leaves them out."""
    try:
        return {str(top["token"]): float(top["logprob"]) for top in choice["logprobs"]["content"][0]["top_logprobs"]}
    except (LookupError, TypeError, ValueError):
        return None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def _is_address(base_url: str) -> bool:
    try:
        url = httpx2.URL(base_url)
    except httpx2.InvalidURL:
        return False
    return url.scheme in ("http", "https") and bool(url.host)


def _may_pass(error: BaseException) -> bool:
    """Whether another attempt may fare better."""
    if isinstance(error, httpx2.HTTPStatusError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, TimeoutError | httpx2.TransportError)
