"""Vectors as an index stores them: rankings against sentence-transformers' searches."""

import numpy as np
import pytest
import torch
from sentence_transformers.util import quantize_embeddings
from sentence_transformers.util.quantization import semantic_search_faiss

from embedrl.errors import ConfigError
from embedrl.evaluation.stored import Storage, rank_stored
from embedrl.losses.matryoshka import truncate
from embedrl.metrics.ranking import Blocks
from embedrl.types import RetrievalTask, Side

QUERIES, CANDIDATES, DIM = 9, 150, 64


@pytest.fixture(scope="module")
def vectors():
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.nn.functional.normalize(torch.randn(n, DIM, generator=generator)) for n in (QUERIES, CANDIDATES))


def ranked(sides, k=10, pools=None, **storage):
    queries, candidates = sides
    texts = [Side(text=str(i)) for i in range(CANDIDATES)]
    qrels = [{i: 1.0, i + 50: 2.0} for i in range(QUERIES)]
    task = RetrievalTask("toy", texts[:QUERIES], texts, qrels, pools)
    blocks = Blocks(QUERIES, lambda: queries.split(4)), Blocks(CANDIDATES, lambda: candidates.split(37))
    return rank_stored(task, *blocks, Storage(**storage), k)


def test_binary_is_hamming_distance(vectors):
    bits = [np.unpackbits(quantize_embeddings(side.numpy(), "ubinary"), axis=1) for side in vectors]
    distance = (bits[0][:, None] != bits[1][None]).sum(2)
    pessimistic, optimistic = ranked(vectors, vectors="binary")
    for ranking, sign in ((pessimistic, 1), (optimistic, -1)):
        for row, places in enumerate(ranking.indices.tolist()):
            level = {row: 1, row + 50: 2}
            order = sorted(range(CANDIDATES), key=lambda i: (distance[row, i], sign * level.get(i, 0), i))
            assert places == order[:10]
    assert not torch.equal(pessimistic.indices, optimistic.indices)  # there are ties


def test_binary_scored_again_is_sentence_transformers_search(vectors):
    queries, candidates = (side.numpy() for side in vectors)
    # All are scored again: which of equal distances come first is the index's own affair.
    hits, *_ = semantic_search_faiss(
        queries, quantize_embeddings(candidates, "ubinary"), corpus_precision="ubinary", top_k=10, rescore_multiplier=15
    )
    ranking, _ = ranked(vectors, vectors="binary", rescore=CANDIDATES)
    assert ranking.indices.tolist() == [[hit["corpus_id"] for hit in row] for row in hits]


def test_int8_scored_again_is_sentence_transformers_search(vectors):
    queries, candidates = (side.numpy() for side in vectors)
    ranges = np.stack([candidates.min(0), candidates.max(0)])
    hits, *_ = semantic_search_faiss(
        queries, quantize_embeddings(candidates, "uint8", ranges=ranges), corpus_precision="uint8", top_k=10,
        ranges=ranges, rescore_multiplier=15,
    )  # fmt: skip
    ranking, _ = ranked(vectors, vectors="int8", rescore=CANDIDATES)
    assert ranking.indices.tolist() == [[hit["corpus_id"] for hit in row] for row in hits]


def test_what_was_not_among_the_best_by_codes_does_not_come_back(vectors):
    first, _ = ranked(vectors, k=12, vectors="binary")
    again, _ = ranked(vectors, vectors="binary", rescore=12)
    everything, _ = ranked(vectors, vectors="binary", rescore=CANDIDATES)
    for row in range(QUERIES):
        assert set(again.indices[row].tolist()) < set(first.indices[row].tolist())
    assert not torch.equal(again.indices, everything.indices)
    own = torch.arange(QUERIES)[:, None]
    assert torch.equal(again.relevance > 0, (again.indices == own) | (again.indices == own + 50))


def test_shorter_vectors_are_normalised_again_and_stored(vectors):
    shorter = tuple(truncate(side, 16) for side in vectors)
    ranking, _ = ranked(vectors, dim=16)
    assert ranking.indices.tolist() == (shorter[0] @ shorter[1].T).argsort(dim=1, descending=True)[:, :10].tolist()
    for precision in ("int8", "binary"):
        whole, cut = ranked(vectors, dim=16, vectors=precision), ranked(shorter, vectors=precision)
        assert torch.equal(whole[0].indices, cut[0].indices)


def test_a_query_is_ranked_against_its_own_pool(vectors):
    pools = [[i, i + 50, i + 60, i + 70] for i in range(QUERIES)]
    for again in (0, 10):
        ranking, _ = ranked(vectors, pools=pools, vectors="binary", rescore=again)
        assert [sorted(row)[-4:] for row in ranking.indices.tolist()] == pools
        assert (ranking.indices[:, 4:] == -1).all()
        assert ranking.scores[:, 4:].eq(-torch.inf).all()


@pytest.mark.parametrize(
    ("storage", "lengths", "message"),
    [
        ({"dim": 0}, [], "--dim is 0"),
        ({"dim": 48}, [16, 32], "--dim 48: the model was trained for the lengths 16, 32"),
        ({"rescore": 20}, [], "--rescore 20 with --vectors float32"),
        ({"vectors": "binary", "rescore": 9}, [], "--rescore 9: the metrics need the best 10"),
        ({"dim": 65}, [], "--dim 65: the model's vectors have 64 numbers"),
    ],
)
def test_refuses_what_cannot_be(storage, lengths, message):
    storage = Storage(**storage)
    with pytest.raises(ConfigError, match=message) as caught:
        storage.check(10, lengths) or storage.check_length(DIM)
    assert "\n" not in str(caught.value)
