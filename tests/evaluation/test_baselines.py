import math
from itertools import combinations

import pytest

from embedrl.evaluation.baselines import bm25, chance, text_only, word_tokens
from embedrl.types import RetrievalTask, Side


def task(queries, candidates, qrels, pools=None):
    return RetrievalTask("t", [Side(text=q) for q in queries], [Side(text=c) for c in candidates], qrels, pools=pools)


def test_words_are_runs_of_letters_and_digits():
    assert word_tokens("food/Fruit/red-apple_01, PT100 Räuchermännchen") == [
        "food",
        "fruit",
        "red",
        "apple",
        "01",
        "pt100",
        "räuchermännchen",
    ]


def test_marks_belong_to_their_letters():
    assert word_tokens("किला, काला") == ["किला", "काला"]
    assert word_tokens("cafe\u0301 au lait") == ["cafe\u0301", "au", "lait"]


def test_bm25_equals_its_formula():
    documents = ["red apple", "green apple apple tree", "blue car", ""]
    queries = ["apple", "red red apple", "plane"]
    lengths = [2, 4, 2, 0]
    expected = []
    for query in queries:
        row = []
        for document, length in zip(documents, lengths, strict=True):
            score = 0.0
            for word in sorted(set(query.split())):
                n = sum(word in other.split() for other in documents)
                f = document.split().count(word)
                idf = math.log(1 + (4 - n + 0.5) / (n + 0.5))
                score += idf * f * 2.2 / (f + 1.2 * (0.25 + 0.75 * length / 2))
            row.append(score)
        expected.append(row)
    assert bm25(queries, documents).tolist() == [pytest.approx(row, abs=1e-12) for row in expected]


def test_text_only_counts_every_relevant_candidate_and_ties_against_itself():
    scored = task(["apple", "plane"], ["a", "b", "c"], [{0: 1.0, 1: 1.0}, {2: 1.0}])
    found = text_only(scored, ["red apple", "apple", "car"])
    assert found["hit@1"] == 0.5  # no candidate shares a word with `plane`: the right one comes last
    assert found["recall@5"] == 1.0
    assert found["mrr@10"] == pytest.approx((1 + 1 / 3) / 2)


@pytest.mark.parametrize("k", [1, 2, 3, 10])
def test_chance_equals_counting_all_draws(k):
    scored = task(["a", "b"], list("vwxyz"), [{0: 1.0, 3: 2.0, 4: 0.0}, {1: 1.0}])
    share = []
    for relevant in ({0, 3}, {1}):
        draws = list(combinations(range(5), min(k, 5)))
        share.append(sum(bool(relevant & set(draw)) for draw in draws) / len(draws))
    assert chance(scored, k) == pytest.approx(sum(share) / 2)


def test_chance_in_local_pools():
    scored = task(["a", "b"], list("vwxyz"), [{0: 1.0}, {1: 1.0}], pools=[[0, 1], [0, 1, 2, 3]])
    assert chance(scored, 1) == pytest.approx((1 / 2 + 1 / 4) / 2)
