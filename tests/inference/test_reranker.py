import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_replies import plain_yes

from embedrl.data.render import RenderOptions
from embedrl.data.rerank_lessons import rerank_chat
from embedrl.data.world import WorldTasks
from embedrl.errors import ConfigError, DataError
from embedrl.inference.reranker import Reranker, reordered
from embedrl.metrics.ranking import rank
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.types import Side

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def reranker():
    built = Reranker(QwenVLReasoner("embedrl:tiny"), style="brief")
    built.build(CPU)
    return built


@pytest.fixture(scope="module")
def task():
    return WorldTasks("val", 3, ["grounding"], decoys=1).tasks()[0]


def test_a_score_is_the_share_of_yes_by_plain_cross_entropy(reranker, task):
    """Beside the losses of both replies, which know neither packing nor choices."""
    generator, query = reranker.generator, task.queries[0]
    scores = reranker.score(query, task.candidates[:3])
    for side, score in zip(task.candidates[:3], scores, strict=True):
        expected = plain_yes(generator, rerank_chat(query, side, reranker.render, "brief"))
        assert float(score) == pytest.approx(expected, abs=1e-5)
    assert reranker.score(query, []).shape == (0,)


def test_what_is_behind_the_depth_stays(reranker, task):
    vectors = torch.nn.functional.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    first = rank(vectors[:3], vectors[: len(task.candidates)], task.qrels)
    again = reranker.rerank(task, first, 2)
    assert torch.equal(again.indices[:, 2:], first.indices[:, 2:])
    assert torch.equal(again.indices[:, :2].sort().values, first.indices[:, :2].sort().values)
    for row in range(3):
        for column in range(2):
            index = int(again.indices[row, column])
            [score] = reranker.logits(task.queries[row], [task.candidates[index]])
            assert float(again.scores[row, column]) == pytest.approx(float(score), abs=1e-5)
            assert float(again.relevance[row, column]) == task.qrels[row].get(index, 0.0)
    assert (again.scores[:, 0] >= again.scores[:, 1]).all()


@given(st.data())
def test_the_order_is_that_of_a_plain_sort(data):
    count, depth = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    depth = min(count, depth)
    relevant = data.draw(st.integers(0, count - 1))
    scores = data.draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=depth, max_size=depth))
    candidates = torch.eye(8)[:count]
    first = rank(torch.linspace(1, 0.5, 8)[None], candidates, [{relevant: 1.0}], k=count)
    again = reordered(first, torch.tensor([scores]))
    rows = list(zip(first.indices[0].tolist(), scores, strict=False))
    ordered = sorted(rows, key=lambda row: (-row[1], row[0] == relevant, row[0]))
    assert again.indices[0].tolist() == [i for i, _ in ordered] + first.indices[0, depth:].tolist()


def test_a_depth_beyond_what_the_ranking_keeps(reranker, task):
    """Refused where it would leave out candidates; all of a small pool are enough."""
    vectors = torch.nn.functional.normalize(torch.randn(9, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    count = len(task.candidates)
    short, whole = (rank(vectors[:3], vectors[3 : 3 + count], task.qrels, k=k) for k in (2, count))
    with pytest.raises(ConfigError, match="rerank depth is 3, but the ranking keeps 2 candidates: rank"):
        reranker.rerank(task, short, 3)
    again = reranker.rerank(task, whole, 99)
    assert torch.equal(again.indices, reranker.rerank(task, whole, count).indices)
    assert torch.equal(again.indices.sort().values, whole.indices.sort().values)


def test_wrong_input(reranker, task):
    with pytest.raises(ConfigError, match="str does not say how likely"):
        Reranker("x")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_tokens is 0"):
        Reranker(reranker.generator, RenderOptions(), max_tokens=0)
    with pytest.raises(ConfigError, match="rerank depth is 0"):
        reranker.rerank(task, rank(torch.eye(3), torch.eye(3), [{0: 1.0}] * 3), 0)
    with pytest.raises(DataError, match="my query candidate: the side is empty"):
        reranker.score(Side("x"), [Side("")], "my query")
