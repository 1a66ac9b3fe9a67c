"""Retrieval metrics, computed from an exact ranking."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from embedrl.metrics.ranking import Ranking, rank

__all__ = ["KS", "Ranking", "mean_metrics", "metrics", "rank"]

KS = (1, 5, 10)


def metrics(ranking: Ranking, ks: Sequence[int] = KS) -> dict[str, Tensor]:
    """Every metric of every query, `{"hit@1": [queries], ...}`.

    `precision = hits / k`, `recall = hits / |L|`, `f1` their harmonic mean, `map = Σ P@i · rel_i / min(|L|, k)`,
    `mrr = 1 / rank of the first hit`, `ndcg_linear` with gain `rel` and `ndcg_exponential` with gain `2^rel - 1`,
    discount `1 / log2(i + 1)`; `L` is the set of a query's relevant candidates.

    Args:
        ranking: What `rank` returned, with at least `max(ks)` candidates kept.
        ks: The cut-offs.
    """
    hits = (ranking.relevance > 0).double()
    total = ranking.num_relevant.double()
    places = torch.arange(1, hits.shape[1] + 1, dtype=torch.float64)
    precisions = hits.cumsum(1) / places
    discount = 1 / torch.log2(places + 1)
    out: dict[str, Tensor] = {}
    for k in ks:
        if k > hits.shape[1]:
            raise ValueError(f"the ranking keeps {hits.shape[1]} candidates: rank with k >= {k}")
        found = hits[:, :k].sum(1)
        out[f"hit@{k}"] = (found > 0).double()
        out[f"precision@{k}"] = found / k
        out[f"recall@{k}"] = found / total
        out[f"f1@{k}"] = 2 * found / (k + total)  # 2PR / (P + R), also where both are 0
        out[f"map@{k}"] = (precisions * hits)[:, :k].sum(1) / total.clamp(max=k)
        out[f"mrr@{k}"] = (hits / places)[:, :k].amax(1)
        for name, gains, ideal in (
            ("linear", ranking.relevance, ranking.ideal),
            ("exponential", 2**ranking.relevance - 1, 2**ranking.ideal - 1),
        ):
            out[f"ndcg_{name}@{k}"] = (gains * discount)[:, :k].sum(1) / (ideal * discount)[:, :k].sum(1)
    return out


def mean_metrics(ranking: Ranking, ks: Sequence[int] = KS) -> dict[str, float]:
    """The mean over queries of every metric; `Args` as in `metrics`."""
    return {name: values.mean().item() for name, values in metrics(ranking, ks).items()}
