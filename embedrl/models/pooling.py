"""Pooling: from hidden states to one vector per row."""

from __future__ import annotations

import torch
from torch import Tensor

from embedrl.errors import DataError


def pool_at_token(hidden: Tensor, input_ids: Tensor, token_id: int) -> Tensor:
    """The hidden state at the last occurrence of a token in each row.

    Args:
        hidden: Hidden states after the final norm, `[batch, length, dim]`.
        input_ids: Token ids, `[batch, length]`.
        token_id: The id of `<emb>`.

    Returns:
        `[batch, dim]`.

    Raises:
        DataError: If a row does not hold the token.

    Source: Embed-RL §3.1.
    """
    return hidden[torch.arange(len(hidden), device=hidden.device), last_places(input_ids, token_id)]


def last_places(input_ids: Tensor, token_id: int) -> Tensor:
    """Where each row has a token for the last time, `[batch]`.

    Args:
        input_ids: Token ids, `[batch, length]`.
        token_id: The id of `<emb>`.

    Raises:
        DataError: If a row does not hold the token.
    """
    matches = input_ids == token_id
    if not bool(matches.any(1).all()):
        rows = (~matches.any(1)).nonzero().flatten().tolist()
        raise DataError(f"rows {rows} of the micro-batch hold no <emb> token (id {token_id}): render the chat with one")
    steps = torch.arange(input_ids.shape[1], device=input_ids.device)
    return torch.where(matches, steps, -1).argmax(1)
