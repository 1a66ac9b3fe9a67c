"""Sampling several replies per prompt: the prompt is computed once, and the replies share its keys and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.generation import TopPLogitsWarper

from embedrl.data.inputs import ModelInputs
from embedrl.errors import ConfigError
from embedrl.models.attention_mask import SHARED, query_mask
from embedrl.tcot.schema import STOP

MOST_WRITTEN = 8
"""Replies share a row if they can be this much longer than their prompt, all together (measured on a CPU)."""


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
    blocks: bool = False,
) -> Draws:
    """Draw n replies per prompt. A reply that has ended is read no more; its row leaves when all replies in it have.

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
        blocks: Whether replies may share a row, behind one copy of their prompt, kept apart by a mask of blocks.
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
    together = replies_a_row(n, prompts["input_ids"].shape[1], steps) if blocks else 1
    cache.batch_repeat_interleave(n // together)
    segments = (prompts["attention_mask"] * SHARED).repeat_interleave(n // together, 0)
    position = prompts["position_ids"].amax((0, 2)).repeat_interleave(n) + 1
    replies = torch.arange(groups * n, device=device)
    rows = _Rows.of(replies, together)
    for step in range(steps):
        logits = distribution(head(hidden), suppressed, options)
        token = choose(logits, uniform[replies, step], options)
        tokens[replies, step] = token
        logprobs[replies, step] = logits.log_softmax(-1).gather(1, token[:, None])[:, 0]
        ended = ends(tokens[replies, : step + 1])
        finished[replies[ended]] = True
        lengths[replies[ended]] = step + 1
        if step + 1 == steps or bool(ended.all()):
            break
        if bool(ended.any()):
            kept = (~ended).nonzero()[:, 0]
            replies, token, position = replies[kept], token[kept], position[kept]
            left, rows = rows.numbers, _Rows.of(replies, together)
            if len(rows.numbers) < len(left):
                index = torch.isin(left, rows.numbers).nonzero()[:, 0]
                segments = segments[index]
                cache.batch_select_indices(index)
        written = rows.spread(rows.segments)
        segments = torch.cat([segments, written], dim=1)
        if together == 1:
            mask = (segments > 0).to(prompts["attention_mask"].dtype)
        else:
            mask = query_mask(written, segments, hidden.dtype)
        out = core(
            input_ids=rows.spread(token),
            attention_mask=mask,
            position_ids=rows.spread(position).expand(3, -1, -1),
            past_key_values=cache,
            use_cache=True,
        )
        hidden = out.last_hidden_state[rows.row, rows.slot]  # type: ignore[attr-defined]
        position = position + 1
    return Draws(tokens, logprobs, lengths, finished)


def replies_a_row(n: int, prompt: int, steps: int) -> int:
    """How many replies share a row of the cache: all of a prompt, or one.

    Every step copies the cache, which holds the prompt once a row; and every reply is compared with all tokens of its
    row, whatever the mask says. So they are apart where replies may be far longer than their prompt.

    Args:
        n: Replies per prompt.
        prompt: Tokens of the prompt.
        steps: Tokens of the longest reply.

    >>> replies_a_row(8, 512, 128), replies_a_row(8, 64, 512)
    (8, 1)
    """
    return n if n * steps <= MOST_WRITTEN * prompt else 1


@dataclass(frozen=True, slots=True)
class _Rows:
    """Where the replies that go on stand in the rows of the cache.

    Attributes:
        numbers: Which rows are left, `[rows]`.
        row: Each reply's row among those, `[replies]`.
        slot: Its place among the new tokens of that row, `[replies]`.
        segments: Its segment in the mask of blocks, `[replies]`.
    """

    numbers: Tensor
    row: Tensor
    slot: Tensor
    segments: Tensor

    @classmethod
    def of(cls, replies: Tensor, together: int) -> _Rows:
        """Sort replies, given in order, into rows of so many."""
        numbers, row, counts = torch.unique_consecutive(replies // together, return_inverse=True, return_counts=True)
        slot = torch.arange(len(replies), device=replies.device) - (counts.cumsum(0) - counts)[row]
        return cls(numbers, row, slot, replies % together + SHARED + 1)

    def spread(self, values: Tensor) -> Tensor:
        """Values of the replies `[replies]` as new tokens of the rows `[rows, most of a row]`, 0 elsewhere."""
        grid = values.new_zeros(len(self.numbers), int(self.slot.max()) + 1)
        grid[self.row, self.slot] = values
        return grid


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
