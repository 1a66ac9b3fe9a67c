"""Sampling several replies per prompt: the prompt is computed once, and the replies share its keys and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.generation import TopPLogitsWarper

from embedrl.data.inputs import ModelInputs
from embedrl.errors import ConfigError
from embedrl.tcot.schema import STOP


@dataclass(frozen=True)
class SamplingOptions:
    """How replies are drawn. Source: Embed-RL B.2.

    Attributes:
        max_new_tokens: Longest reply in tokens; one that does not end before is truncated.
        temperature: Divides the logits; 0 takes the likeliest token.
        top_p: Draw among the likeliest tokens that hold this much probability.
        stop: Texts that end a reply; they stay in it, with the rest of the token that completed one.
    """

    max_new_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = STOP

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {self.max_new_tokens}: give 1 or more")
        if self.temperature < 0:
            raise ConfigError(f"temperature is {self.temperature}: give 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}: give more than 0, at most 1")


@dataclass(frozen=True, slots=True)
class SampledReply:
    """One reply.

    Attributes:
        tokens: Its token ids, with the one that ended it.
        logprobs: Log-probability of each token in the distribution it was drawn from: at the temperature, among the
            tokens that may be written and that `top_p` keeps. A greedy reply has those of temperature 1.
        text: The reply as text, without the end-of-turn token.
        truncated: Whether it reached the length limit before it ended.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    truncated: bool


@dataclass(frozen=True, slots=True)
class Draws:
    """Replies as tensors, group by group: row `g * n + i` is reply i of prompt g.

    Attributes:
        tokens: `[rows, steps]`, meaningless beyond a row's length.
        logprobs: `[rows, steps]`, likewise.
        lengths: `[rows]`.
        ended: `[rows]`, False if the row reached the length limit.
    """

    tokens: Tensor
    logprobs: Tensor
    lengths: Tensor
    ended: Tensor


def grouped(drawn: Draws, n: int, texts: Callable[[list[tuple[int, ...]]], list[str]]) -> list[list[SampledReply]]:
    """The replies of each prompt.

    Args:
        drawn: The replies as tensors.
        n: Replies per prompt.
        texts: Makes texts of the replies' tokens.
    """
    rows = [tuple(row[:length]) for row, length in zip(drawn.tokens.tolist(), drawn.lengths.tolist(), strict=True)]
    replies = [
        SampledReply(row, tuple(values[: len(row)]), text, truncated=not ended)
        for row, values, text, ended in zip(
            rows, drawn.logprobs.tolist(), texts(rows), drawn.ended.tolist(), strict=True
        )
    ]
    return [replies[i : i + n] for i in range(0, len(replies), n)]


@torch.no_grad()
def draw(
    core: Callable[..., object],
    head: Callable[[Tensor], Tensor],
    prompts: ModelInputs,
    seeds: Sequence[int],
    n: int,
    options: SamplingOptions,
    suppressed: Tensor,
    ends: Callable[[Tensor], Tensor],
) -> Draws:
    """Draw n replies per prompt. A row that has ended leaves the batch and the cache.

    Row i of a group draws by its own uniform numbers, one per token, so what it writes depends neither on the other
    prompts nor on when other rows end.

    Args:
        core: A `Qwen3VLModel`.
        head: Its LM head.
        prompts: A batch of prompts padded on the left, with `position_ids`.
        seeds: One per prompt.
        n: Replies per prompt.
        options: How to draw.
        suppressed: Ids of the tokens that must not be written, `[k]`.
        ends: Called with the replies so far, `[rows, steps]`; returns which of them end with their last token.
    """
    device, groups, steps = prompts["input_ids"].device, len(prompts["input_ids"]), options.max_new_tokens
    uniform = torch.cat(
        [torch.rand(n, steps, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in seeds]
    ).to(device)
    tokens = torch.zeros(groups * n, steps, dtype=torch.long, device=device)
    logprobs = torch.zeros(groups * n, steps, device=device)
    lengths = torch.full((groups * n,), steps, device=device)
    finished = torch.zeros(groups * n, dtype=torch.bool, device=device)

    out = core(**prompts, use_cache=True)
    hidden, cache = out.last_hidden_state[:, -1].repeat_interleave(n, 0), out.past_key_values  # type: ignore[attr-defined]
    cache.batch_repeat_interleave(n)
    mask = prompts["attention_mask"].repeat_interleave(n, 0)
    position = prompts["position_ids"].amax((0, 2)).repeat_interleave(n) + 1
    rows = torch.arange(groups * n, device=device)
    for step in range(steps):
        logits = distribution(head(hidden), suppressed, options)
        token = choose(logits, uniform[rows, step], options)
        tokens[rows, step] = token
        logprobs[rows, step] = logits.log_softmax(-1).gather(1, token[:, None])[:, 0]
        ended = ends(tokens[rows, : step + 1])
        finished[rows[ended]] = True
        lengths[rows[ended]] = step + 1
        if step + 1 == steps or bool(ended.all()):
            break
        if bool(ended.any()):
            kept = (~ended).nonzero()[:, 0]
            rows, token, position, mask = rows[kept], token[kept], position[kept], mask[kept]
            cache.batch_select_indices(kept)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        out = core(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=position.expand(3, -1)[..., None],
            past_key_values=cache,
            use_cache=True,
        )
        hidden = out.last_hidden_state[:, -1]  # type: ignore[attr-defined]
        position = position + 1
    return Draws(tokens, logprobs, lengths, finished)


def distribution(logits: Tensor, suppressed: Tensor, options: SamplingOptions) -> Tensor:
    """The logits that a token is drawn from, `[rows, vocabulary]`, float32.

    Args:
        logits: What the LM head says, `[rows, vocabulary]`.
        suppressed: Ids of the tokens that must not be written, `[k]`.
        options: How to draw.
    """
    logits = logits.float().index_fill(1, suppressed, -torch.inf) / (options.temperature or 1.0)
    if options.temperature > 0 and options.top_p < 1:
        warped: Tensor = TopPLogitsWarper(options.top_p)(None, logits)
        return warped
    return logits


def choose(logits: Tensor, uniform: Tensor, options: SamplingOptions) -> Tensor:
    """One token per row: the likeliest, or the one at which the cumulative probability passes `uniform`."""
    if options.temperature == 0:
        return logits.argmax(-1)
    cumulative = logits.softmax(-1, dtype=torch.float64).cumsum(-1)
    total = cumulative[:, -1:]
    # Rounding must not make `point` equal to the total: no token lies beyond it.
    point = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, point, right=True)[:, 0]
