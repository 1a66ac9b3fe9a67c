import pytest
import torch

from embedrl.index.hits import Hit
from embedrl.index.reranking import reorder_hits, rerank_hits
from embedrl.inference.reranker import Reranker
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.types import Side

HITS = [Hit(0.9 - i / 10, str(i), {"text": text}, tcot=tcot) for i, (text, tcot) in enumerate(
    [("a fox", ""), ("an owl", "<answer>owl</answer>"), ("a crow", ""), ("a rat", "")]
)]  # fmt: skip


@pytest.mark.parametrize(
    ("scores", "order"),
    [([], "0123"), ([0.1], "0123"), ([0.1, 0.2, 0.2], "1203"), ([0.5, 0.5, 0.9], "2013")],
)
def test_the_first_hits_stand_in_the_order_of_the_scores_and_the_others_behind(scores, order):
    again = reorder_hits(HITS, scores)
    assert [hit.key for hit in again] == list(order)
    assert {hit.key: hit.reranked for hit in again if hit.reranked is not None} == {
        str(i): score for i, score in enumerate(scores)
    }
    assert {hit.key: hit.score for hit in again} == {hit.key: hit.score for hit in HITS}


def test_a_reranker_reads_an_item_with_its_tcot():
    reranker = Reranker(QwenVLReasoner("embedrl:tiny"), style="brief")
    reranker.build(torch.device("cpu"))
    query = Side("a bird")
    again = rerank_hits(reranker, query, HITS, 3)
    sides = [Side("a fox"), Side("an owl", tcot="<answer>owl</answer>"), Side("a crow")]
    expected = reranker.score(query, sides).tolist()
    assert {hit.key: hit.reranked for hit in again[:3]} == pytest.approx(dict(zip("012", expected, strict=True)))
    assert again[3] == HITS[3]
