"""The exact ranking: ties, blocks, pools, and what it refuses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import on_axis, unit

from embedrl.errors import DataError, NonFiniteError
from embedrl.metrics import ranking as r
from embedrl.metrics.ranking import Blocks, rank, rank_both
from embedrl.metrics.retrieval import mean_metrics


@pytest.mark.parametrize("dim", [3, 64, 300])
@pytest.mark.parametrize("local", [False, True])
def test_a_collapsed_encoder_scores_nothing(dim, local):
    vectors = unit(1, dim, seed=dim).expand(100, dim)  # all equal, but float32 products differ in the last bits
    qrels = [{0: 1.0} for _ in range(100)]
    pools = [list(range(50)) for _ in range(100)] if local else None
    worst = mean_metrics(rank(vectors, vectors, qrels, pools))
    best = mean_metrics(rank(vectors, vectors, qrels, pools, ties="optimistic"))
    assert worst["hit@10"] == worst["ndcg_linear@10"] == 0
    assert best["hit@1"] == 1


def test_ties_rank_the_less_relevant_first():
    query, candidates = on_axis(0.5, 0.5, 0.5, 0.9)
    qrels = [{0: 2.0, 1: 1.0}]
    assert rank(query, candidates, qrels, k=4).indices.tolist() == [[3, 2, 1, 0]]
    assert rank(query, candidates, qrels, k=4, ties="optimistic").indices.tolist() == [[3, 0, 1, 2]]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_equals_brute_force_with_ties_pools_and_blocks(data):
    """Scores on a coarse grid tie often; tiny blocks exercise the merging."""
    n_q, n_c = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 13))
    queries = torch.tensor(data.draw(st.lists(st.sampled_from([-1.0, 0.5, 1.0]), min_size=n_q, max_size=n_q)))[:, None]
    candidates = torch.tensor(data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=n_c, max_size=n_c)))[
        :, None
    ]
    local = data.draw(st.booleans())
    pools = (
        [data.draw(st.lists(st.integers(0, n_c - 1), min_size=1, unique=True)) for _ in range(n_q)] if local else None
    )
    qrels = [
        data.draw(
            st.dictionaries(st.sampled_from(pools[q] if local else range(n_c)), st.sampled_from([1.0, 2.0]), min_size=1)
        )
        for q in range(n_q)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(r, "ROWS", 2)
        patch.setattr(r, "COLUMNS", 3)
        ranking = rank(queries, candidates, qrels, pools, k=5)
    for q in range(n_q):
        pool = pools[q] if local else range(n_c)
        score = {c: (queries[q] * candidates[c]).item() for c in pool}
        gains = [qrels[q].get(c, 0.0) for c in sorted(pool, key=lambda c: (-score[c], qrels[q].get(c, 0.0)))][:5]
        assert ranking.relevance[q].tolist() == gains + [0.0] * (5 - len(gains))
        kept = [c for c in ranking.indices[q].tolist() if c >= 0]
        assert len(kept) == len(set(kept)) == min(5, len(pool))
        assert ranking.scores[q, : len(kept)].tolist() == pytest.approx([score[c] for c in kept], abs=1e-7)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("side", ["query", "candidate"])
def test_refuses_non_finite(value, side):
    vectors = {"query": unit(3, 4), "candidate": unit(5, 4)}
    vectors[side][2, 1] = value
    with pytest.raises(NonFiniteError, match=rf"{side} \[2\]"):
        rank(vectors["query"], vectors["candidate"], [{0: 1.0}] * 3)


@pytest.mark.parametrize(
    ("qrels", "pools", "message"),
    [
        ([], None, "one row"),
        ([{}], None, "query 0: give it"),
        ([{0: 0.0}], None, "query 0: give it"),
        ([{9: 1.0}], None, "query 0: give it"),
        ([{0: 1.0}], [[1, 2]], "query 0: give it"),
        ([{0: 1.0}], [[0, 0]], "repeats"),
        ([{0: 1.0}], [[0, 5]], "does not exist"),
        ([{0: 1.0}], [], "one row"),
    ],
)
def test_refuses_judgements_that_cannot_be_scored(qrels, pools, message):
    with pytest.raises(DataError, match=message):
        rank(unit(1, 4), unit(5, 4), qrels, pools)


@pytest.mark.parametrize("ties", ["pessimistic", "optimistic"])
@pytest.mark.parametrize("dim", [4, 96])
def test_ruling_out_in_float32_loses_nothing(dim, ties, monkeypatch):
    """Near ties, closer than float32 tells apart, and copies; against all scores in double precision."""
    monkeypatch.setattr(r, "ROWS", 7)
    monkeypatch.setattr(r, "COLUMNS", 50)
    base = unit(400, dim, seed=dim)
    near = base[:100] + 3e-8 * torch.randn(100, dim, generator=torch.Generator().manual_seed(1))
    candidates = torch.cat([base, near, base[50:150], unit(400, dim, seed=9)])
    queries = torch.cat([base[:20], unit(10, dim, seed=3)])
    qrels = [{400 + q: 1.0, q + 5: 2.0} for q in range(30)]
    found = rank(queries, candidates, qrels, k=20, ties=ties)
    grid = ((queries.double() @ candidates.double().T) / r.GRID).round() * r.GRID
    sign = -1 if ties == "pessimistic" else 1
    for q, judged in enumerate(qrels):
        order = sorted(range(1000), key=lambda c: (-round(grid[q, c].item(), 9), -sign * judged.get(c, 0.0), c))[:20]
        assert found.indices[q].tolist() == order
        assert found.scores[q].tolist() == pytest.approx(grid[q, order].tolist(), abs=1e-12)


def test_few_pairs_need_double_precision(monkeypatch):
    """What the float32 pass is for: a candidate is scored in double precision only if it may be among the best."""
    scored = []
    real = r._contenders
    monkeypatch.setattr(r, "_contenders", lambda *args: scored.append(real(*args)) or scored[-1])
    monkeypatch.setattr(r, "COLUMNS", 200)
    rank(unit(5, 64), unit(4000, 64, seed=1), [{0: 1.0}] * 5)
    assert all(found is not None for found in scored)
    assert 50 <= sum(found.sum().item() for found in scored) < 500


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("sizes", [(60,), (7, 30, 1, 22)])
def test_blocks_rank_like_one_tensor(sizes, local):
    queries, candidates = unit(9, 8), unit(60, 8, seed=4)
    qrels = [{q: 1.0, q + 40: 2.0} for q in range(9)]
    pools = [[59, q + 40, q, *range(20, 25)] for q in range(9)] if local else None
    blocks = Blocks(60, lambda: candidates.split(list(sizes)))
    expected = rank(queries, candidates, qrels, pools, k=12)
    found, other = rank_both(queries, blocks, qrels, pools, k=12)
    for name in ("indices", "scores", "relevance", "ideal", "num_relevant"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert torch.equal(other.indices, rank(queries, candidates, qrels, pools, k=12, ties="optimistic").indices)


def test_blocks_that_deliver_too_few_rows_are_refused():
    with pytest.raises(DataError, match="5 candidate vectors came, not 6"):
        rank(unit(1, 4), Blocks(6, lambda: [unit(5, 4)]), [{0: 1.0}])


def test_both_ways_to_treat_ties_from_one_pass():
    queries, candidates = on_axis(0.5, 0.5, 0.5, 0.4)
    worst, best = rank_both(queries, candidates, [{1: 1.0}], k=3)
    assert (worst.indices.tolist(), best.indices.tolist()) == ([[0, 2, 1]], [[1, 0, 2]])
