"""A discriminator behind any OpenAI-compatible endpoint (vLLM, SGLang, `transformers serve`, a hosted model)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx2
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from embedrl.errors import ConfigError
from embedrl.rl.rewards.judge import Question, Verdict, read_index


class EndpointJudge:
    """Asks `POST <base_url>/chat/completions`, greedily, for the number of a candidate.

    Time-outs, refused connections, status 429 and 5xx are tried again with growing, jittered pauses. What fails for
    good is no verdict, with its cause.

    Args:
        base_url: Address up to and with the version, e.g. `http://127.0.0.1:8000/v1`.
        model: Name of the model there.
        timeout: Seconds for one attempt, the whole answer included.
        retries: Further attempts after a failed one.
        backoff: Seconds before the first retry; each further one waits about twice as long, 30 s at most.
        concurrency: Questions under way at once, from each process.
        total_timeout: Seconds for all questions of a step; those not answered by then have no verdict.
        max_tokens: Longest answer in tokens.
        api_key_env: Environment variable that holds the key; without it no key is sent.

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
        total_timeout: float = 600.0,
        max_tokens: int = 8,
        api_key_env: str = "OPENAI_API_KEY",
    ) -> None:
        if not _is_address(base_url):
            raise ConfigError(f"judge.base_url is {base_url!r}: give an address such as http://127.0.0.1:8000/v1")
        bounds = {"timeout": timeout, "total_timeout": total_timeout}
        for name, seconds in bounds.items():
            if not seconds > 0:
                raise ConfigError(f"judge.{name} is {seconds}: give seconds above 0")
        for name, number, least in (
            ("retries", retries, 0),
            ("backoff", backoff, 0),
            ("concurrency", concurrency, 1),
            ("max_tokens", max_tokens, 1),
        ):
            if not number >= least:
                raise ConfigError(f"judge.{name} is {number}: give {least} or more")
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.timeout = timeout
        self.retries = retries
        self.backoff = backoff
        self.concurrency = concurrency
        self.total_timeout = total_timeout
        self.max_tokens = max_tokens
        self.api_key_env = api_key_env

    @property
    def name(self) -> str:
        """See `Judge`."""
        return f"{self.base_url} ({self.model})"

    def choose(self, questions: Sequence[Question]) -> list[Verdict]:
        """See `Judge`."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._choose(questions))
        with ThreadPoolExecutor(1) as pool:  # inside a notebook, whose own loop is running
            return pool.submit(asyncio.run, self._choose(questions)).result()

    async def _choose(self, questions: Sequence[Question]) -> list[Verdict]:
        key = os.environ.get(self.api_key_env)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        end = asyncio.get_running_loop().time() + self.total_timeout
        gate = asyncio.Semaphore(self.concurrency)
        # The limit on an attempt is set around the whole of it: httpx's own restarts with every piece that arrives.
        async with httpx2.AsyncClient(headers=headers, timeout=None) as client:

            async def ask(question: Question) -> Verdict:
                try:
                    async with asyncio.timeout_at(end), gate:
                        return await self._ask(client, question)
                except TimeoutError:
                    return Verdict(None, "timeout")
                except httpx2.HTTPStatusError as error:
                    return Verdict(None, f"http_{error.response.status_code}")
                except httpx2.TransportError:
                    return Verdict(None, "unreachable")
                except httpx2.DecodingError:
                    return Verdict(None, "malformed")

            return await asyncio.gather(*map(ask, questions))

    async def _ask(self, client: httpx2.AsyncClient, question: Question) -> Verdict:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": question.prompt}],
            "max_tokens": self.max_tokens,
            "temperature": 0.0,
        }

        async def attempt() -> httpx2.Response:
            async with asyncio.timeout(self.timeout):
                response = await client.post(f"{self.base_url}/chat/completions", json=body)
            return response.raise_for_status()

        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.retries + 1),
            wait=wait_exponential_jitter(multiplier=self.backoff, max=30, jitter=self.backoff),
            retry=retry_if_exception(_may_pass),
            reraise=True,
        )
        response: httpx2.Response = await retrying(attempt)
        try:
            answer = response.json()["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return Verdict(None, "malformed")
        return read_index(answer, question.choices) if isinstance(answer, str) else Verdict(None, "malformed")


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
