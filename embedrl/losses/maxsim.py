"""MaxSim: how alike two sides are that have one vector a token.

Token vectors travel as one tensor, `[sides, tokens, dim]`: unit vectors, and zeros where a side has fewer tokens than
the longest. So they are gathered, cached and split as single vectors are, and need no mask beside them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

TILE = 1 << 24  # similarities of tokens that are held at once


def token_mask(vectors: Tensor) -> Tensor:
    """Which token vectors are no padding, `[sides, tokens]`."""
    return vectors.detach().any(dim=-1)


def maxsim(queries: Tensor, documents: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Mean over a query's tokens of the highest dot product with a token of the document, `[queries, documents]`.

    It is ColBERT's score divided by the number of the query's tokens: documents rank the same, and the score of unit
    vectors stays between -1 and 1. Similarities of tokens are computed tile by tile, and again in the backward pass, so
    that memory does not grow with queries times documents times tokens.

    Source: Khattab & Zaharia 2020 (arXiv 2004.12832), Eq. 3.

    Args:
        queries: Token vectors, `[queries, tokens, dim]`, padded with zeros.
        documents: The same, `[documents, tokens, dim]`.
        dtype: What to compute in; None: that of the vectors.
    """
    seen, kept = token_mask(queries), token_mask(documents)
    pair = max(queries.shape[1] * documents.shape[1], 1)
    down = max(1, min(len(queries), int((TILE / pair) ** 0.5) or 1))
    across = max(1, TILE // (pair * down))
    graph = torch.is_grad_enabled() and (queries.requires_grad or documents.requires_grad)
    rows = []
    for top in range(0, len(queries), down):
        tiles = []
        for left in range(0, len(documents), across):
            mine, theirs = slice(top, top + down), slice(left, left + across)
            parts = (queries[mine], seen[mine], documents[theirs], kept[theirs], dtype)
            tiles.append(checkpoint(_tile, *parts, use_reentrant=False) if graph else _tile(*parts))
        rows.append(torch.cat(tiles, dim=1) if tiles else queries.new_empty(len(queries[top : top + down]), 0))
    return torch.cat(rows) if rows else queries.new_empty(0, len(documents))


def _tile(queries: Tensor, seen: Tensor, documents: Tensor, kept: Tensor, dtype: torch.dtype | None) -> Tensor:
    with torch.autocast(queries.device.type, enabled=False):
        queries, documents = queries.to(dtype or queries.dtype), documents.to(dtype or documents.dtype)
        products = queries.flatten(0, 1) @ documents.flatten(0, 1).T
    products = products.view(*seen.shape, *kept.shape).masked_fill(~kept, -torch.inf)
    best = products.amax(dim=3).masked_fill(~seen[:, :, None], 0)
    return best.sum(dim=1) / seen.sum(dim=1).clamp(min=1)[:, None]
