"""Several replies to one prompt in one row, `[prompt, reply 1, reply 2, ...]`, so that the prompt is computed once.

Every reply takes the positions that follow the prompt and attends only to the prompt and itself: its hidden states and
their gradients equal those of a row of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.generation import TopPLogitsWarper

from embedrl.data.inputs import ModelInputs
from embedrl.models.attention_mask import SHARED

IGNORE = -100  # the label of a token that carries no loss
LOGITS = 2**25  # logits computed at once (128 MiB in float32): of a large vocabulary, a few hundred tokens


def pack(prompts: ModelInputs, replies: Sequence[Sequence[Sequence[int]]]) -> ModelInputs:
    """Append replies to their prompts.

    Args:
        prompts: Prompts padded on the left, one per row: width L.
        replies: Token ids of each row's replies; none is empty.

    Returns:
        The inputs of the network at width L + R, R being the longest row of replies, with
        `segments` `[rows, L + R]` in place of an attention mask (or `attention_mask`, if no row has two replies),
        `labels` `[replies, T]`: the tokens of the replies, row by row, -100 beyond their ends, and
        `sources` `[replies, T]`: where in the flattened rows the hidden state lies that predicts each token.
    """
    ids, mask, positions = prompts["input_ids"], prompts["attention_mask"], prompts["position_ids"]
    rows, length = ids.shape
    # The last token of a reply is predicted, but is no input: no token follows it.
    width = length + max(sum(len(reply) - 1 for reply in row) for row in replies)
    flat = [reply for row in replies for reply in row]
    shape = (len(flat), max(map(len, flat)))
    packed = {
        "input_ids": torch.zeros(rows, width, dtype=ids.dtype),
        "position_ids": torch.zeros(3, rows, width, dtype=positions.dtype),
        "segments": torch.zeros(rows, width, dtype=torch.long),
        "labels": torch.full(shape, IGNORE),
        "sources": torch.zeros(shape, dtype=torch.long),
    }
    packed["input_ids"][:, :length] = ids
    packed["position_ids"][..., :length] = positions
    packed["segments"][:, :length] = mask * SHARED
    first = positions.amax((0, 2)) + 1
    number = 0
    for row, group in enumerate(replies):
        at = length
        for segment, reply in enumerate(group, start=SHARED + 1):
            tokens, end = torch.tensor(reply), at + len(reply) - 1
            packed["input_ids"][row, at:end] = tokens[:-1]
            packed["position_ids"][:, row, at:end] = first[row] + torch.arange(len(reply) - 1)
            packed["segments"][row, at:end] = segment
            packed["labels"][number, : len(reply)] = tokens
            packed["sources"][number, 0] = row * width + length - 1
            packed["sources"][number, 1 : len(reply)] = row * width + torch.arange(at, end)
            at, number = end, number + 1
    if max(map(len, replies)) == 1:
        packed["attention_mask"] = (packed.pop("segments") > 0).to(mask.dtype)
    visual = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw")
    return packed | {name: prompts[name] for name in visual if name in prompts}


def token_logprobs(
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    tokens: Tensor,
    temperature: float,
    suppressed: Tensor,
    vocabulary: int,
    top_p: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of tokens and entropies of their distributions, in float32, with gradients.

    More than `LOGITS` logits are computed in parts, and again in the backward pass.

    Args:
        head: The LM head.
        hidden: `[tokens, dim]`, the hidden states that predict them.
        tokens: `[tokens]`.
        temperature: Divides the logits.
        suppressed: Ids that have no probability.
        vocabulary: Number of logits per token.
        top_p: Below 1, the probability is among the likeliest tokens that hold this much, and the given one.

    Returns:
        Log-probabilities and entropies in nats, `[tokens]` each.
    """

    def part(hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(hidden).float() / temperature
        # The lowest number, not -inf: the entropy multiplies it by a probability of 0.
        logits = logits.index_fill(1, suppressed, torch.finfo(logits.dtype).min)
        if top_p < 1:
            kept = TopPLogitsWarper(top_p)(None, logits.detach()).isfinite().scatter(1, tokens[:, None], True)
            logits = logits.masked_fill(~kept, torch.finfo(logits.dtype).min)
        norm = logits.logsumexp(-1)
        entropy = norm - (logits.softmax(-1) * logits).sum(-1)
        return logits.gather(1, tokens[:, None])[:, 0] - norm, entropy

    size = max(1, LOGITS // vocabulary)
    if len(tokens) <= size:
        return part(hidden, tokens)
    parts: list[tuple[Tensor, Tensor]] = [
        checkpoint(part, h, t, use_reentrant=False, preserve_rng_state=False)
        for h, t in zip(torch.split(hidden, size), torch.split(tokens, size), strict=True)
    ]
    return torch.cat([p for p, _ in parts]), torch.cat([e for _, e in parts])


def cut_by_tokens(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Cut rows into batches of rows of like length; rows that fit into one batch stay in their order.

    Args:
        lengths: Tokens of each row.
        max_tokens: Most tokens of a batch, padding included; a longer row is a batch of its own.

    Returns:
        The positions of the rows of each batch.

    >>> cut_by_tokens([3, 9, 4, 3], 9), cut_by_tokens([3, 2], 9)
    ([[0, 3], [2], [1]], [[0, 1]])
    """
    if not lengths or len(lengths) * max(lengths) <= max_tokens:
        return [list(range(len(lengths)))] if lengths else []
    parts: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        # Sorted, so this row is the longest of its batch so far.
        if parts and (len(parts[-1]) + 1) * lengths[i] <= max_tokens:
            parts[-1].append(i)
        else:
            parts.append([i])
    return parts
