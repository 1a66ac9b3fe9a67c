"""Requests to a rollout server and checks of its answers: the chat completions of vLLM, token by token."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedrl.errors import EndpointError
from embedrl.models.sampling import SamplingOptions
from embedrl.types import Chat

if TYPE_CHECKING:
    from PIL.Image import Image

FORBID = -100.0  # the least bias there is: such a token has no probability left
SEED_BITS = 52  # every JSON parser reads such an integer exactly, and a server may add the number of the reply
NEVER_DRAWN = -1e3  # a log-probability below this is a server's sign for "none"
ROUNDING = 1e-3  # and one above this is none


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply as the server gives it.

    Attributes:
        tokens: Its token ids, with the one that ended it.
        logprobs: Log-probability of each under the distribution it was drawn from.
        truncated: Whether it reached the length limit before it ended.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    truncated: bool


def to_request(
    chat: Chat, model: str, n: int, seed: int, options: SamplingOptions, forbidden: Collection[int]
) -> dict[str, Any]:
    """The body of a request for n replies.

    Nothing is left to the server's defaults: vLLM would take them from the checkpoint's `generation_config.json`.

    Args:
        chat: The prompt; its pictures and frames have the size at which the model reads them.
        model: Name of the model, or of its adapter, on the server.
        n: Number of replies.
        seed: Decides what is drawn.
        options: How to draw.
        forbidden: Ids of the tokens that must not be written.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [{**message, "content": [_part(part) for part in message["content"]]} for message in chat],
        "n": n,
        "seed": seed,
        "max_tokens": options.max_new_tokens,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop": [*options.stop],
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "logit_bias": {str(token): FORBID for token in forbidden},
        "logprobs": True,
        "top_logprobs": 0,
        "return_token_ids": True,
    }
    rates = {part["fps"] for message in chat for part in message["content"] if part["type"] == "video"}
    if rates:
        # All frames, at the times at which they were sampled.
        body["media_io_kwargs"] = {"video": {"fps": rates.pop(), "num_frames": -1, "do_sample_frames": False}}
    return body


def read_replies(
    answer: Any, request: dict[str, Any], prompt: Sequence[int], forbidden: Collection[int], where: str
) -> list[Reply]:
    """The replies in an answer, none missing and none guessed.

    Args:
        answer: The parsed JSON.
        request: What `to_request` made.
        prompt: The prompt's token ids, placeholders of pixels included, as the policy reads it.
        forbidden: Ids of the tokens that must not be written.
        where: Name of the server and the model, for errors.

    Raises:
        EndpointError: If the answer is something else, or for another prompt.
    """
    if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list):
        raise EndpointError(
            f"{where}: the answer is no chat completion: does base_url end where /chat/completions begins?"
        )
    if answer.get("model") != request["model"]:
        raise EndpointError(f"{where}: the answer is by {answer.get('model')!r}: that server did not load the adapter")
    _check_prompt(answer.get("prompt_token_ids"), prompt, where)
    choices, n = answer["choices"], request["n"]
    if len(choices) != n:
        raise EndpointError(f"{where}: {len(choices)} replies came back, not {n}: use a server that knows `n`, as vLLM")
    replies = [_reply(choice, request["max_tokens"], where) for choice in choices]
    for token in (token for reply in replies for token in reply.tokens if token in forbidden):
        raise EndpointError(
            f"{where}: token {token} was written, which logit_bias forbids: that server ignores logit_bias"
        )
    return replies


def _part(part: dict[str, Any]) -> dict[str, Any]:
    """A part of the content in OpenAI's form; pixels travel unchanged."""
    if part["type"] == "image":
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_png(part['image'])}"}}
    if part["type"] == "video":
        # vLLM's way to send frames; it reads each one by what it holds, so PNG loses nothing.
        frames = ",".join(_png(frame) for frame in part["video"])
        return {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{frames}"}}
    return {"type": "text", "text": part["text"]}


def _png(picture: Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "png", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()


def _check_prompt(given: Any, prompt: Sequence[int], where: str) -> None:
    if not _are_ids(given):
        raise _no_ids("prompt_token_ids", where)
    if given == [*prompt]:
        return
    at = next((i for i, (a, b) in enumerate(zip(given, prompt, strict=False)) if a != b), min(len(given), len(prompt)))
    raise EndpointError(
        f"{where} reads another prompt than the policy: {len(given)} tokens, not {len(prompt)}, different from token "
        f"{at} on. Serve the checkpoint that generator.path names, with its chat template and with pixel budgets that "
        "hold the policy's (--mm-processor-kwargs; engine.extra adds fields to requests)"
    )


def _reply(choice: Any, limit: int, where: str) -> Reply:
    choice = choice if isinstance(choice, dict) else {}
    tokens = choice.get("token_ids")
    if not _are_ids(tokens) or not tokens:
        raise _no_ids("token_ids", where)
    try:
        logprobs = tuple(float(entry["logprob"]) for entry in choice["logprobs"]["content"])
    except (LookupError, TypeError, ValueError) as error:
        raise EndpointError(
            f"{where}: no log-probabilities came back: do not start it with --max-logprobs 0"
        ) from error
    if len(logprobs) != len(tokens):
        raise EndpointError(f"{where}: {len(tokens)} tokens came back with {len(logprobs)} log-probabilities")
    wrong = [value for value in logprobs if not (math.isfinite(value) and NEVER_DRAWN < value < ROUNDING)]
    if wrong:
        raise EndpointError(
            f"{where}: {wrong[0]} is no log-probability of a token that was drawn: start it with "
            "--logprobs-mode processed_logprobs"
        )
    reason = choice.get("finish_reason")
    if reason not in ("stop", "length"):
        raise EndpointError(
            f"{where}: a reply ended by {reason!r}, neither stop nor length: look into the server's log"
        )
    if len(tokens) > limit:
        raise EndpointError(f"{where}: a reply has {len(tokens)} tokens: max_tokens {limit} was ignored")
    return Reply(tuple(tokens), logprobs, reason == "length")


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(token) is int for token in value)


def _no_ids(name: str, where: str) -> EndpointError:
    return EndpointError(
        f"{where}: the answer has no {name}, and text is never tokenised again. The request set return_token_ids: use "
        "vLLM 0.10.2 or later, and nothing in between that drops fields it does not know"
    )
