"""The attention mask that keeps several texts in one row apart."""

from __future__ import annotations

import torch
from torch import Tensor

SHARED = 1  # the segment of what all texts of a row begin with; padding is 0, their own parts are 2, 3, ...


def block_mask(segments: Tensor, dtype: torch.dtype, last: Tensor | None = None) -> Tensor:
    """What may be seen, to be added to the attention scores: earlier places of the shared part and of the own segment.

    Args:
        segments: `[rows, width]`: 0 padding, 1 (`SHARED`) what all see, 2 and up what sees it and itself.
        dtype: That of the attention scores.
        last: `[rows, width]`: the last segment that sees a place, where texts branch off one another: from its own to
            this one all do. None: its own alone does, and all see what is shared.

    Returns:
        `[rows, 1, width, width]`: 0 where a place is seen, else the lowest number.
    """
    query, key = segments[:, None, :, None], segments[:, None, None, :]
    # Padding sees padding, so that no row of the softmax is empty.
    seen = (key == SHARED) | (key == query) if last is None else (key <= query) & (query <= last[:, None, None, :])
    seen = seen.tril()
    return torch.zeros(seen.shape, dtype=dtype, device=segments.device).masked_fill(~seen, torch.finfo(dtype).min)


def query_mask(queries: Tensor, keys: Tensor, dtype: torch.dtype) -> Tensor:
    """The rows of `block_mask` for new tokens behind a cache.

    Args:
        queries: Segments of the new tokens, `[rows, new]`.
        keys: Segments of all tokens of the row, the new ones last, `[rows, width]`; no two new ones share a segment.
        dtype: That of the attention scores.

    Returns:
        `[rows, 1, new, width]`: 0 where a place is seen, else the lowest number.
    """
    key = keys[:, None, None, :]
    seen = (key == SHARED) | (key == queries[:, None, :, None])
    return torch.zeros(seen.shape, dtype=dtype, device=keys.device).masked_fill(~seen, torch.finfo(dtype).min)
