"""Which of several T-CoTs of one side to keep, without labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def medoid(vectors: Tensor) -> int:
    """Position of the vector that is nearest to all others on average: what most T-CoTs agree on.

    Source: Wang et al. 2022 (self-consistency), with cosine in the place of equal answers.

    Args:
        vectors: Unit vectors, one a T-CoT, `[n, dim]`.

    >>> medoid(torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.8, 0.6]]))
    2
    """
    vectors = vectors.double()
    return int((vectors @ vectors.sum(0)).argmax())  # each is equally near to itself


def gaps(queries: Tensor, candidates: Tensor, pools: Sequence[Sequence[int] | None]) -> list[float]:
    """Δs of each query: how far its best candidate is before the next one; 0 if there is but one.

    Source: Embed-RL Fig. 4.

    Args:
        queries: Unit vectors, `[queries, dim]`.
        candidates: Unit vectors, `[candidates, dim]`.
        pools: Which candidates each query is ranked against; None: all.

    >>> gaps(torch.eye(2), torch.tensor([[1.0, 0.0], [0.75, 0.5]]), [None, None])
    [0.25, 0.5]
    """
    scores = queries.double() @ candidates.to(queries.device).double().T
    out = []
    for row, pool in zip(scores, pools, strict=True):
        own = row if pool is None else row[torch.tensor(sorted(pool), device=row.device)]
        best = own.topk(min(2, len(own))).values.tolist()
        out.append(best[0] - best[1] if len(best) > 1 else 0.0)
    return out
