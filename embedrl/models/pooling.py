"""Where a row's vector is read."""

from __future__ import annotations

import torch
from torch import Tensor

from embedrl.errors import DataError


def last_places(input_ids: Tensor, token_id: int) -> Tensor:
    """Where in the flattened batch the last occurrence of a token in each row stands.

    Args:
        input_ids: Token ids, `[batch, length]`.
        token_id: The id of `<emb>`.

    Returns:
        `[batch]`.

    Raises:
        DataError: If a row does not hold the token.

    Source: Embed-RL §3.1.

    >>> last_places(torch.tensor([[7, 1, 7, 0], [1, 1, 1, 7]]), 7)
    tensor([2, 7])
    """
    matches = input_ids == token_id
    if not bool(matches.any(1).all()):
        without = (~matches.any(1)).nonzero().flatten().tolist()
        raise DataError(
            f"rows {without} of the micro-batch hold no <emb> token (id {token_id}): render the chat with one"
        )
    rows, width = input_ids.shape
    steps = torch.arange(width, device=input_ids.device)
    last = torch.where(matches, steps, -1).argmax(1)
    places: Tensor = torch.arange(rows, device=input_ids.device) * width + last
    return places
