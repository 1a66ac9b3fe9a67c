"""Exact ranking of vectors and the retrieval metrics computed from it.

Equal scores must not depend on a sort's order: an encoder that collapsed to one vector would otherwise score whatever
the order of the candidates makes of it. A relevant candidate that ties with irrelevant ones therefore ranks last among
them (torchmetrics' retrieval metrics leave ties to the sort; without ties the figures are the same).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from embedrl.errors import DataError, NonFiniteError

KS = (1, 5, 10)
GRID = 1e-7  # scores are rounded to this step: equal vectors tie however the matrix product was tiled
ROWS, COLUMNS = 1024, 4096  # queries and candidates whose scores are held at once


@dataclass(frozen=True)
class Ranking:
    """The best candidates of every query.

    Attributes:
        indices: Positions of the best candidates, best first, `[queries, k]`; -1 where a pool is smaller than k.
        scores: Their scores, `[queries, k]`; `-inf` where there is none.
        relevance: Their relevance, `[queries, k]`; 0 where there is none.
        ideal: The query's relevances, largest first, `[queries, k]`; padded with 0.
        num_relevant: Number of relevant candidates of the query, `[queries]`.
    """

    indices: Tensor
    scores: Tensor
    relevance: Tensor
    ideal: Tensor
    num_relevant: Tensor


def rank(
    queries: Tensor,
    candidates: Tensor,
    qrels: Sequence[Mapping[int, float]],
    pools: Sequence[Sequence[int]] | None = None,
    k: int = max(KS),
    ties: Literal["pessimistic", "optimistic"] = "pessimistic",
) -> Ranking:
    """Rank candidates by dot product, exactly, without ever holding all scores at once.

    Args:
        queries: Unit vectors, `[queries, dim]`.
        candidates: Unit vectors, `[candidates, dim]`.
        qrels: For each query, the relevance of candidates by position; absent means 0.
        pools: For each query, the positions it is ranked against (local ranking); None means all (global ranking).
        k: How many of the best candidates to keep.
        ties: `pessimistic` ranks a candidate behind the less relevant ones of equal score; `optimistic` before them.

    Raises:
        NonFiniteError: If a vector holds NaN or infinity.
        DataError: If a query has no relevant candidate, or one outside its pool or the candidates.
    """
    for what, vectors in (("query", queries), ("candidate", candidates)):
        bad = (~torch.isfinite(vectors).all(dim=1)).nonzero().flatten().tolist()
        if bad:
            raise NonFiniteError(f"non-finite vectors of {what} {bad[:5]} ({len(bad)} in all): the encoder diverged")
    _check(len(queries), len(candidates), qrels, pools)
    levels = {value: i for i, value in enumerate(sorted({v for judged in qrels for v in judged.values() if v > 0}), 1)}
    # A tie is broken by less than the grid's step, so that only equal scores are affected.
    step = (-1 if ties == "pessimistic" else 1) * GRID / (2 * len(levels) + 2)
    ranks = [{col: step * levels[value] for col, value in judged.items() if value > 0} for judged in qrels]
    if pools is None:
        keys, indices = _best_of_all(queries, candidates, ranks, k)
    else:
        keys, indices = _best_of_pools(queries, candidates, ranks, pools, k)
    relevance = torch.tensor(
        [[judged.get(col, 0.0) for col in row] for judged, row in zip(qrels, indices.tolist(), strict=True)],
        dtype=torch.float64,
    ).clamp(min=0)
    ideal = torch.zeros(len(queries), k, dtype=torch.float64)
    for row, judged in enumerate(qrels):
        gains = sorted((value for value in judged.values() if value > 0), reverse=True)[:k]
        ideal[row, : len(gains)] = torch.tensor(gains, dtype=torch.float64)
    num_relevant = torch.tensor([sum(value > 0 for value in judged.values()) for judged in qrels])
    return Ranking(indices, _rounded(keys), relevance, ideal, num_relevant)


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


def _check(
    num_queries: int, num_candidates: int, qrels: Sequence[Mapping[int, float]], pools: Sequence[Sequence[int]] | None
) -> None:
    """Refuse judgements that cannot be scored."""
    if not num_queries or len(qrels) != num_queries or (pools is not None and len(pools) != num_queries):
        raise DataError(f"{num_queries} queries: give at least one, and one row of qrels (and of pools) for each")
    everything = range(num_candidates)
    for row, judged in enumerate(qrels):
        pool = everything if pools is None else set(pools[row])
        if pools is not None and (len(pool) != len(pools[row]) or any(col not in everything for col in pool)):
            raise DataError(f"query {row}: its pool repeats a candidate or names one that does not exist")
        relevant = [col for col, value in judged.items() if value > 0]
        if not relevant or any(col not in pool for col in relevant):
            raise DataError(f"query {row}: give it at least one relevant candidate, all of them inside its pool")


def _rounded(scores: Tensor) -> Tensor:
    """Scores on the grid."""
    return (scores / GRID).round() * GRID


def _best_of_all(queries: Tensor, candidates: Tensor, ranks: list[dict[int, float]], k: int) -> tuple[Tensor, Tensor]:
    """Keys and positions of the k best candidates of every query, `[queries, k]`, block by block."""
    parts = []
    for top in range(0, len(queries), ROWS):
        rows = queries[top : top + ROWS].double()
        keys = rows.new_empty(len(rows), 0)
        indices = keys.long()
        for left in range(0, len(candidates), COLUMNS):
            block = candidates[left : left + COLUMNS].double()
            new = _rounded(rows @ block.T)
            for i, shifts in enumerate(ranks[top : top + ROWS]):
                for col, shift in shifts.items():
                    if left <= col < left + len(block):
                        new[i, col - left] += shift
            columns = torch.arange(left, left + len(block), device=rows.device).expand(len(rows), -1)
            keys, indices = torch.cat([keys, new], 1), torch.cat([indices, columns], 1)
            keys, order = keys.topk(min(k, keys.shape[1]), dim=1)
            indices = indices.gather(1, order)
        parts.append(_padded(keys, indices, k))
    return _stacked(parts, k)


def _best_of_pools(
    queries: Tensor, candidates: Tensor, ranks: list[dict[int, float]], pools: Sequence[Sequence[int]], k: int
) -> tuple[Tensor, Tensor]:
    """Keys and positions of the k best candidates of every query's own pool, `[queries, k]`."""
    parts = []
    for query, shifts, pool in zip(queries, ranks, pools, strict=True):
        columns = torch.tensor(pool, dtype=torch.long, device=queries.device)
        keys = _rounded(candidates[columns].double() @ query.double())
        place = {col: i for i, col in enumerate(pool)}
        for col, shift in shifts.items():
            keys[place[col]] += shift
        keys, order = keys.topk(min(k, len(keys)))
        parts.append(_padded(keys[None], columns[order][None], k))
    return _stacked(parts, k)


def _padded(keys: Tensor, indices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Widen `[rows, <= k]` to `[rows, k]` with -1 at key `-inf`."""
    missing = (0, k - keys.shape[1])
    return functional.pad(keys, missing, value=-torch.inf).cpu(), functional.pad(indices, missing, value=-1).cpu()


def _stacked(parts: list[tuple[Tensor, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """The rows of all parts."""
    if not parts:
        return torch.empty(0, k, dtype=torch.float64), torch.empty(0, k, dtype=torch.long)
    return torch.cat([keys for keys, _ in parts]), torch.cat([indices for _, indices in parts])
