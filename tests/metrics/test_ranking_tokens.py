"""Ranking of sides with one vector a token: MaxSim, by blocks."""

import pytest
import torch
from token_vectors import slow_maxsim, tokens

from embedrl.errors import NonFiniteError
from embedrl.losses import maxsim as m
from embedrl.metrics import ranking as r
from embedrl.metrics.ranking import Blocks, rank, rank_both

QUERIES = tokens(3, 1, 5, 2, dtype=torch.float32)
COUNTS = [2, 6, 1, 4, 3, 3, 5, 1, 2]
CANDIDATES = tokens(*COUNTS, seed=1, dtype=torch.float32)
QRELS = [{q: 1.0} for q in range(4)]


def expected_of(pools, k):
    orders = []
    for query, pool in zip(QUERIES, pools, strict=True):
        scores = {col: slow_maxsim(query, CANDIDATES[col]) for col in pool}
        orders.append(sorted(scores.items(), key=lambda item: -item[1])[:k])
    return orders


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("sizes", [(9,), (2, 3, 4)])
def test_equals_a_loop_over_all_pairs(local, sizes, monkeypatch):
    monkeypatch.setattr(r, "ROWS", 3)
    monkeypatch.setattr(r, "COLUMNS", 2)
    monkeypatch.setattr(m, "TILE", 30)

    def read():
        start = 0
        for size in sizes:  # each block as wide as its longest side
            yield CANDIDATES[start : start + size, : max(COUNTS[start : start + size])]
            start += size

    pools = [[q, 4, 5, 6, 8] for q in range(4)] if local else None
    ranking = rank(QUERIES, Blocks(9, read), QRELS, pools, k=4)
    for row, order in enumerate(expected_of(pools or [range(9)] * 4, 4)):
        assert ranking.indices[row].tolist() == [col for col, _ in order]
        assert ranking.scores[row].tolist() == pytest.approx([score for _, score in order], abs=2e-7)


def test_sides_that_are_alike_tie():
    alike = CANDIDATES[:1].repeat(5, 1, 1)
    worst, best = rank_both(QUERIES[:1], alike, [{0: 1.0}], k=5)
    assert worst.relevance[0].tolist() == [0, 0, 0, 0, 1]
    assert best.relevance[0].tolist() == [1, 0, 0, 0, 0]


def test_a_token_that_is_not_finite_is_named():
    bad = CANDIDATES.clone()
    bad[3, 1, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"candidate \[3\]"):
        rank(QUERIES, bad, QRELS)
