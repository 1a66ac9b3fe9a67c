"""A discriminator behind any OpenAI-compatible endpoint (vLLM, SGLang, `transformers serve`, a hosted model)."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from embedrl.errors import ConfigError
from embedrl.rl.rewards.judge import TOO_LONG, Question, Verdict, read_index
from embedrl.utils.chat_client import ChatClient, Endpoint, NoAnswer, run

_DIGITS = 9
_LENGTH = re.compile(r"context[ _]length|context window|max_model_len|too long|maximum (?:input|sequence) length", re.I)


@dataclass(frozen=True, kw_only=True)
class JudgeEndpoint(Endpoint):
    """See `Endpoint`; answers are a few tokens."""

    slot: ClassVar[str] = "judge"

    timeout: float = 30.0
    retries: int = 2
    backoff: float = 0.5
    concurrency: int = 16


class EndpointJudge:
    """Asks `POST <base_url>/chat/completions`, greedily, for the number of a candidate.

    A request that still fails yields no verdict, with its cause.

    Args:
        base_url: Address up to and with the version, e.g. `http://127.0.0.1:8000/v1`.
        model: Name of the model there.
        total_timeout: Seconds for all questions of a step; those not answered by then have no verdict.
        max_tokens: Longest answer in tokens.
        logprobs: Ask for the log-probabilities of the first token, and take the likeliest number: the judge then gives
            probabilities. For at most 9 candidates, as a number of two digits may be two tokens; a server that sends
            none gives no verdict (`no_logprobs`).
        **endpoint: How it is asked: see `Endpoint`.

    Raises:
        ConfigError: If an option is out of its range.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        total_timeout: float = 600.0,
        max_tokens: int = 8,
        logprobs: bool = False,
        **endpoint: Any,
    ) -> None:
        self.base_url, self.model = base_url, model
        self.endpoint = JudgeEndpoint(base_url=base_url, **endpoint)
        if not total_timeout > 0:
            raise ConfigError(f"judge.total_timeout is {total_timeout}: give seconds above 0")
        if not max_tokens >= 1:
            raise ConfigError(f"judge.max_tokens is {max_tokens}: give 1 or more")
        self.total_timeout = total_timeout
        self.max_tokens = max_tokens
        self.logprobs = logprobs

    sees_pictures = False

    @property
    def name(self) -> str:
        """See `Judge`."""
        return f"{self.endpoint.address} ({self.model})"

    @property
    def gives_probabilities(self) -> bool:
        """See `Judge`."""
        return self.logprobs

    def choose(self, questions: Sequence[Question]) -> list[Verdict]:
        """See `Judge`.

        Raises:
            ConfigError: If a question has more candidates than `logprobs` can weigh.
        """
        if self.logprobs and any(question.choices > _DIGITS for question in questions):
            raise ConfigError(
                f"judge.logprobs weighs at most {_DIGITS} candidates: take positives: one, fewer hard_negatives, or "
                "logprobs: false"
            )
        return run(self._choose(questions))

    async def _choose(self, questions: Sequence[Question]) -> list[Verdict]:
        options = {"logprobs": True, "top_logprobs": 20} if self.logprobs else {}
        end = asyncio.get_running_loop().time() + self.total_timeout
        gate = asyncio.Semaphore(self.endpoint.concurrency)
        async with ChatClient(self.endpoint) as client:

            async def ask(question: Question) -> Verdict:
                message = {"role": "user", "content": question.prompt}
                try:
                    async with asyncio.timeout_at(end), gate:
                        answer = await client.complete(
                            self.model, [message], max_tokens=self.max_tokens, temperature=0.0, **options
                        )
                except TimeoutError:
                    return Verdict(None, "timeout")
                except NoAnswer as failure:
                    cause = TOO_LONG if _is_too_long(failure) else failure.cause
                    return Verdict(None, cause, detail=failure.detail)
                if self.logprobs:
                    return weigh(answer.first, question.choices)
                return read_index(answer.text, question.choices)

            return await asyncio.gather(*map(ask, questions))


def weigh(first: Mapping[str, float] | None, choices: int) -> Verdict:
    """The verdict of the likeliest tokens that an answer may begin with.

    Args:
        first: Their log-probabilities; None if the server sends none.
        choices: Number of candidates, at most 9.

    >>> weigh({"2": -0.1, " 1": -2.4, "The": -5.0}, 3).index, weigh({"The": -0.1}, 3).cause, weigh(None, 3).cause
    (1, 'unreadable', 'no_logprobs')
    """
    if first is None:
        return Verdict(None, "no_logprobs", detail="the server sends no log-probabilities")
    names = [str(number + 1) for number in range(choices)]
    mass = [math.fsum(math.exp(value) for token, value in first.items() if token.strip() == name) for name in names]
    total = math.fsum(mass)
    if not total:
        return Verdict(None, "unreadable")
    probabilities = tuple(value / total for value in mass)
    return Verdict(max(range(choices), key=probabilities.__getitem__), probabilities=probabilities)


def _is_too_long(failure: NoAnswer) -> bool:
    """Whether the server refused the prompt for its length, as vLLM, SGLang and OpenAI say it."""
    return failure.cause == "http_413" or (failure.cause == "http_400" and bool(_LENGTH.search(failure.detail)))
