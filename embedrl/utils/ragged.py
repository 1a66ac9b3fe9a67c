"""Rows that differ in their second axis, such as the token vectors of sides: padded with zeros to be one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def cat_rows(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate along the first axis; parts of three axes are padded with zeros to the longest second one.

    Args:
        parts: At least one, all `[rows, dim]` or all `[rows, tokens, dim]`, where tokens may differ.
    """
    if parts[0].ndim != 3:
        return torch.cat(list(parts))
    width = max(part.shape[1] for part in parts)
    return torch.cat([functional.pad(part, (0, 0, 0, width - part.shape[1])) for part in parts])


def narrow_to(rows: Tensor, like: Tensor) -> Tensor:
    """Rows of a padded whole, with the second axis of the part that they belong to.

    Args:
        rows: `[rows, dim]`, returned as it is, or `[rows, tokens, dim]`.
        like: The part, `[rows, tokens of the part, dim]`.
    """
    return rows if rows.ndim != 3 else rows[:, : like.shape[1]]
