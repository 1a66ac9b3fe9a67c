"""Exact ranking of vectors, in memory or block by block.

Equal scores must not depend on a sort's order: an encoder that collapsed to one vector would otherwise score whatever
the order of the candidates makes of it. A relevant candidate that ties with irrelevant ones therefore ranks last among
them (torchmetrics' retrieval metrics leave ties to the sort; without ties the figures are the same).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from embedrl.errors import DataError, NonFiniteError
from embedrl.losses.maxsim import maxsim

GRID = 1e-7  # scores are rounded to this step: equal vectors tie however the matrix product was tiled
ROWS, COLUMNS = 512, 4096  # queries and candidates whose scores are held at once
PAIRS = 2048  # pairs of vectors that are held in double precision at once

Ties = Literal["pessimistic", "optimistic"]


@dataclass(frozen=True)
class Blocks:
    """Candidate vectors that are read block by block, for pools that do not fit into memory.

    Attributes:
        rows: Number of candidates.
        read: Starts at the first block each time it is called; blocks are `[any number, dim]` or
            `[any number, any number of tokens, dim]`, in order.
    """

    rows: int
    read: Callable[[], Iterable[Tensor]]


@dataclass(frozen=True)
class Ranking:
    """The best candidates of every query.

    Attributes:
        indices: Positions of the best candidates, best first, equal ones by position, `[queries, k]`; -1 where a pool
            is smaller than k.
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

    @property
    def delta_s(self) -> Tensor:
        """Similarity with the best candidate minus that with the second best, `[queries]`; NaN where there is one.

        Exact to the grid on which scores are compared. Source: Embed-RL Fig. 4.
        """
        gaps = self.scores[:, 0] - self.scores[:, 1]
        return gaps.where(gaps.isfinite(), torch.nan)


def rank(
    queries: Tensor,
    candidates: Tensor | Blocks,
    qrels: Sequence[Mapping[int, float]],
    pools: Sequence[Sequence[int]] | None = None,
    k: int = 10,
    ties: Ties = "pessimistic",
) -> Ranking:
    """Rank candidates by dot product (token vectors: by `maxsim`), exactly, without ever holding all scores at once.

    Args:
        queries: Unit vectors, `[queries, dim]`, or token vectors, `[queries, tokens, dim]`, padded with zeros.
        candidates: Unit vectors, `[candidates, dim]`, or token vectors of the same form.
        qrels: For each query, the relevance of candidates by position; absent means 0.
        pools: For each query, the positions it is ranked against (local ranking); None means all (global ranking).
        k: How many of the best candidates to keep.
        ties: `pessimistic` ranks a candidate behind the less relevant ones of equal score; `optimistic` before them.

    Raises:
        NonFiniteError: If a vector holds NaN or infinity.
        DataError: If a query has no relevant candidate, or one outside its pool or the candidates.
    """
    return _rank(queries, candidates, qrels, pools, k, (ties,))[0]


def rank_both(
    queries: Tensor,
    candidates: Tensor | Blocks,
    qrels: Sequence[Mapping[int, float]],
    pools: Sequence[Sequence[int]] | None = None,
    k: int = 10,
) -> tuple[Ranking, Ranking]:
    """As `rank`, the pessimistic and the optimistic ranking from one pass over the candidates."""
    pessimistic, optimistic = _rank(queries, candidates, qrels, pools, k, ("pessimistic", "optimistic"))
    return pessimistic, optimistic


def _rank(
    queries: Tensor,
    candidates: Tensor | Blocks,
    qrels: Sequence[Mapping[int, float]],
    pools: Sequence[Sequence[int]] | None,
    k: int,
    ties: Sequence[Ties],
) -> list[Ranking]:
    """One ranking for each way to treat ties."""
    _check_finite("query", queries, 0)
    blocks = candidates if isinstance(candidates, Blocks) else _in_memory(candidates)
    _check(len(queries), blocks.rows, qrels, pools)
    levels = {value: i for i, value in enumerate(sorted({v for judged in qrels for v in judged.values() if v > 0}), 1)}
    # A tie is broken by less than the grid's step, so that only equal scores are affected.
    step = GRID / (2 * len(levels) + 2)
    ranks = [{col: step * levels[value] for col, value in judged.items() if value > 0} for judged in qrels]
    best = [_Best(len(queries), k, -1 if how == "pessimistic" else 1, queries.device) for how in ties]
    ordered = None if pools is None else [sorted(pool) for pool in pools]
    norm = queries.float().norm(dim=-1).max().item()
    left = 0
    for block in blocks.read():
        _check_finite("candidate", block, left)
        if ordered is None:
            for start in range(0, len(block), COLUMNS):
                _best_of_all(best, queries, block[start : start + COLUMNS], left + start, ranks, norm)
        else:
            _best_of_pools(best, queries, block, left, ranks, ordered)
        left += len(block)
    if left != blocks.rows:
        raise DataError(f"{left} candidate vectors came, not {blocks.rows}: compute the vectors again")
    return [_ranking(selection, qrels, k) for selection in best]


def _in_memory(candidates: Tensor) -> Blocks:
    return Blocks(len(candidates), lambda: [candidates])


class _Best:
    """The best candidates so far: keys (rounded scores, shifted by relevance) and positions, `[queries, k]`."""

    def __init__(self, queries: int, k: int, sign: int, device: torch.device) -> None:
        self.sign, self.k = sign, k
        self.keys = torch.full((queries, k), -torch.inf, dtype=torch.float64, device=device)
        self.indices = torch.full((queries, k), -1, device=device)

    def add(self, rows: slice, scores: Tensor, shifts: Tensor, columns: Tensor) -> None:
        """Let candidates `columns`, `[rows, n]`, compete; equal keys stay in the order of their positions."""
        new = scores + self.sign * shifts
        keys = torch.cat([self.keys[rows], new], 1)
        indices = torch.cat([self.indices[rows], columns], 1)
        keys, order = keys.sort(dim=1, descending=True, stable=True)
        self.keys[rows], self.indices[rows] = keys[:, : self.k], indices.gather(1, order[:, : self.k])


def _ranking(best: _Best, qrels: Sequence[Mapping[int, float]], k: int) -> Ranking:
    indices = best.indices.cpu()
    relevance = torch.tensor(
        [[judged.get(col, 0.0) for col in row] for judged, row in zip(qrels, indices.tolist(), strict=True)],
        dtype=torch.float64,
    ).clamp(min=0)
    ideal = torch.zeros(len(qrels), k, dtype=torch.float64)
    for row, judged in enumerate(qrels):
        gains = sorted((value for value in judged.values() if value > 0), reverse=True)[:k]
        ideal[row, : len(gains)] = torch.tensor(gains, dtype=torch.float64)
    num_relevant = torch.tensor([sum(value > 0 for value in judged.values()) for judged in qrels])
    return Ranking(indices, _rounded(best.keys).cpu(), relevance, ideal, num_relevant)


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


def _check_finite(what: str, vectors: Tensor, start: int) -> None:
    bad = (~torch.isfinite(vectors).flatten(1).all(dim=1)).nonzero().flatten().tolist()
    if bad:
        some = [start + row for row in bad[:5]]
        raise NonFiniteError(f"non-finite vectors of {what} {some} ({len(bad)} in all): the encoder diverged")


def _rounded(scores: Tensor) -> Tensor:
    """Scores on the grid."""
    return (scores / GRID).round() * GRID


def _best_of_all(
    best: Sequence[_Best], queries: Tensor, block: Tensor, left: int, ranks: list[dict[int, float]], norm: float
) -> None:
    """Let a block of candidates, the first at position `left`, compete in every row."""
    shifted = [  # the block's judgements
        (row, col - left, shift)
        for row, shifts in enumerate(ranks)
        for col, shift in shifts.items()
        if left <= col < left + len(block)
    ]
    margin = _margin(block, norm)
    for top in range(0, len(queries), ROWS):
        rows = slice(top, min(top + ROWS, len(queries)))
        floor = torch.stack([selection.keys[rows, -1] for selection in best]).amin(0)
        contenders = _contenders(queries[rows], block, floor, margin, best[0].k)
        scores, columns = _scores(queries[rows], block, contenders)
        shifts = torch.zeros_like(scores)
        for row, col, shift in shifted:
            if rows.start <= row < rows.stop:
                shifts[row - top, columns[row - top] == col] = shift
        columns = torch.where(columns < 0, -1, columns + left)
        for selection in best:
            selection.add(rows, scores, shifts, columns)


def _margin(block: Tensor, norm: float) -> float:
    """More than a score in float32 can be off the key: `(dim + 16) · 2^-24` of the norms, and the grid.

    Source: N. J. Higham, Accuracy and Stability of Numerical Algorithms, §3.1 (`|error| <= γ_n · |x|ᵀ|y|`).
    """
    if block.ndim == 3 or block.device.type != "cpu" or torch.get_float32_matmul_precision() != "highest":
        return torch.inf  # of token vectors, or products may be rounded to fewer bits
    longest = float(block.float().norm(dim=1).max())
    return 1.01 * (block.shape[1] + 16) * 2.0**-24 * norm * longest + 20 * GRID


def _contenders(queries: Tensor, block: Tensor, floor: Tensor, margin: float, k: int) -> Tensor | None:
    """Which candidates float32 does not rule out, `[queries, block]`; None if double precision had better see all.

    Args:
        queries: Some queries.
        block: Some candidates.
        floor: The key of each query's k-th best so far: what stays below cannot come in.
        margin: What `_margin` returned.
        k: How many are kept.
    """
    if margin == torch.inf or len(block) <= k:
        return None
    rough = queries.float() @ block.float().T
    if floor.min() == -torch.inf:  # the first block: k of its own candidates are a floor, too
        floor = torch.maximum(floor, rough.topk(k).values[:, -1].double() - margin)
    contenders = rough >= (floor - margin).float()[:, None]
    return contenders if 8 * int(contenders.sum()) < contenders.numel() else None


def similarity(queries: Tensor, block: Tensor) -> Tensor:
    """Scores of queries with candidates in double precision, `[queries, candidates]`: dot products, or MaxSim.

    Args:
        queries: Vectors, `[queries, dim]` or `[queries, tokens, dim]`.
        block: Of candidates, of the same form.
    """
    if block.ndim == 3:
        return maxsim(queries, block, torch.float64)
    return queries.double() @ block.double().T


def _scores(queries: Tensor, block: Tensor, contenders: Tensor | None) -> tuple[Tensor, Tensor]:
    """Exact scores of the contenders and their positions in the block, `[queries, most]`, padded with -inf and -1."""
    if contenders is None:
        scores = _rounded(similarity(queries, block))
        return scores, torch.arange(len(block), device=block.device).expand(len(queries), -1)
    rows, cols = contenders.nonzero(as_tuple=True)
    pairs = zip(torch.split(rows, PAIRS), torch.split(cols, PAIRS), strict=True)
    exact = queries.double()
    values = [(exact[r] * block[c].double()).sum(1) for r, c in pairs]
    places = contenders.cumsum(1)[rows, cols] - 1
    scores = exact.new_full((len(queries), int(places.max()) + 1 if len(places) else 0), -torch.inf)
    columns = torch.full_like(scores, -1, dtype=torch.long)
    if values:
        scores[rows, places], columns[rows, places] = _rounded(torch.cat(values)), cols
    return scores, columns


def _best_of_pools(
    best: Sequence[_Best],
    queries: Tensor,
    block: Tensor,
    left: int,
    ranks: list[dict[int, float]],
    pools: list[list[int]],
) -> None:
    """Let a block of candidates, the first at position `left`, compete in the rows whose pools they are in."""
    for row, (pool, judged) in enumerate(zip(pools, ranks, strict=True)):
        mine = pool[bisect_left(pool, left) : bisect_left(pool, left + len(block))]
        if not mine:
            continue
        columns = torch.tensor(mine, device=queries.device)
        scores = _rounded(similarity(queries[row : row + 1], block[columns - left])[0])
        shifts = torch.tensor([judged.get(col, 0.0) for col in mine], dtype=torch.float64, device=queries.device)
        for selection in best:
            selection.add(slice(row, row + 1), scores[None], shifts[None], columns[None])
