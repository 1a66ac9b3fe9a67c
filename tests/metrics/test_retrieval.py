"""The figures of a ranking, against pytrec_eval and torchmetrics, and the metric classes."""

import math
import random

import pytest
import pytrec_eval
import torch
from torchmetrics.functional.retrieval import (
    retrieval_hit_rate,
    retrieval_normalized_dcg,
    retrieval_precision,
    retrieval_recall,
    retrieval_reciprocal_rank,
)
from torchmetrics.retrieval import RetrievalHitRate
from vectors import on_axis, unit

import embedrl.metrics as public
from embedrl.errors import ConfigError
from embedrl.metrics.ranking import rank
from embedrl.metrics.retrieval import (
    KS,
    MRR,
    NDCG,
    HitRate,
    RankingMetric,
    RetrievalMetric,
    check_metrics,
    mean_metrics,
    per_query_metrics,
    score,
    training_metrics,
)


def test_hand_computed():
    query, candidates = on_axis(0.9, 0.8, 0.7, 0.6)
    out = mean_metrics(rank(query, candidates, [{1: 1.0, 3: 2.0}], k=5), ks=(1, 3, 5))
    log3, log5 = math.log2(3), math.log2(5)
    expected = {
        "hit@1": 0, "hit@3": 1, "precision@1": 0, "precision@3": 1 / 3, "precision@5": 2 / 5,
        "recall@1": 0, "recall@3": 1 / 2, "recall@5": 1, "f1@1": 0, "f1@3": 2 / 5, "f1@5": 2 * 2 / 7,
        "map@1": 0, "map@3": (1 / 2) / 2, "map@5": (1 / 2 + 2 / 4) / 2, "mrr@1": 0, "mrr@3": 1 / 2, "mrr@5": 1 / 2,
        "ndcg_linear@1": 0, "ndcg_linear@3": (1 / log3) / (2 + 1 / log3),
        "ndcg_linear@5": (1 / log3 + 2 / log5) / (2 + 1 / log3),
        "ndcg_exponential@3": (1 / log3) / (3 + 1 / log3),
        "ndcg_exponential@5": (1 / log3 + 3 / log5) / (3 + 1 / log3),
    }  # fmt: skip
    assert {name: out[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pytrec_eval(seed):
    rng = random.Random(seed)
    queries, candidates = unit(30, 8, seed=seed), unit(40, 8, seed=seed + 100)
    qrels = [{c: rng.randint(1, 3) for c in rng.sample(range(40), rng.randint(1, 8))} for _ in range(30)]
    pools = [sorted({*judged, *rng.sample(range(40), 12)}) for judged in qrels]
    for pool in (None, pools):
        got = per_query_metrics(rank(queries, candidates, qrels, pool))
        scores = (queries.double() @ candidates.double().T).tolist()
        run = {f"q{q}": {f"c{c}": scores[q][c] for c in (range(40) if pool is None else pool[q])} for q in range(30)}
        judged = {f"q{q}": {f"c{c}": r for c, r in row.items()} for q, row in enumerate(qrels)}
        names = {"hit": "success", "precision": "P", "recall": "recall", "ndcg_linear": "ndcg_cut"}
        oracle = pytrec_eval.RelevanceEvaluator(judged, {f"{n}.1,5,10" for n in names.values()}).evaluate(run)
        for q in range(30):
            for name, theirs in names.items():
                for k in (1, 5, 10):
                    assert got[f"{name}@{k}"][q].item() == pytest.approx(oracle[f"q{q}"][f"{theirs}_{k}"], abs=1e-6)


@pytest.mark.parametrize("k", KS)
def test_agrees_with_pytrec_eval_where_definitions_coincide(k):
    """With at most k relevant candidates for map, hits within k for mrr, gains of 2^rel - 1 for exponential nDCG."""
    rng = random.Random(k)
    queries, candidates = unit(30, 8), unit(15, 8, seed=1)
    qrels = [{c: rng.randint(1, 3) for c in rng.sample(range(15), rng.randint(1, k))} for _ in range(30)]
    got = per_query_metrics(rank(queries, candidates, qrels), ks=(k,))
    scores = (queries.double() @ candidates.double().T).tolist()
    run = {f"q{q}": {f"c{c}": score for c, score in enumerate(row)} for q, row in enumerate(scores)}
    judged = {f"q{q}": {f"c{c}": r for c, r in row.items()} for q, row in enumerate(qrels)}
    gains = {q: {c: 2**r - 1 for c, r in row.items()} for q, row in judged.items()}
    names = {f"P.{k}", f"recall.{k}", f"map_cut.{k}", "recip_rank"}
    plain = pytrec_eval.RelevanceEvaluator(judged, names).evaluate(run)
    exponential = pytrec_eval.RelevanceEvaluator(gains, {f"ndcg_cut.{k}"}).evaluate(run)
    for q in range(30):
        theirs = plain[f"q{q}"]
        precision, recall, first = theirs[f"P_{k}"], theirs[f"recall_{k}"], theirs["recip_rank"]
        expected = {
            "map": theirs[f"map_cut_{k}"],
            "mrr": first if first >= 1 / k - 1e-9 else 0.0,
            "f1": 2 * precision * recall / (precision + recall) if precision else 0.0,
            "ndcg_exponential": exponential[f"q{q}"][f"ndcg_cut_{k}"],
        }
        assert {name: got[f"{name}@{k}"][q].item() for name in expected} == pytest.approx(expected, abs=1e-6)


def test_agrees_with_torchmetrics_where_nothing_ties():
    queries, candidates = unit(20, 8), unit(50, 8, seed=1)
    qrels = [{q: 1, q + 20: 2} for q in range(20)]
    got = per_query_metrics(rank(queries, candidates, qrels))
    for q, scores in enumerate(queries @ candidates.T):
        gains = torch.zeros(50, dtype=torch.long)
        gains[q], gains[q + 20] = 1, 2
        for k in KS:
            theirs = {
                "hit": retrieval_hit_rate(scores, gains > 0, top_k=k),
                "precision": retrieval_precision(scores, gains > 0, top_k=k),
                "recall": retrieval_recall(scores, gains > 0, top_k=k),
                "mrr": retrieval_reciprocal_rank(scores, gains > 0, top_k=k),
                "ndcg_linear": retrieval_normalized_dcg(scores, gains, top_k=k),
            }
            for name, value in theirs.items():
                assert got[f"{name}@{k}"][q].item() == pytest.approx(value.item(), abs=1e-6)


@pytest.mark.parametrize("right", [0, 3])
def test_torchmetrics_leaves_ties_to_the_order_of_the_candidates(right):
    """Why its classes are not used: to an encoder that maps everything to one vector they may give the best score."""
    query, candidates = on_axis(0.5, 0.5, 0.5, 0.5)
    theirs = RetrievalHitRate(top_k=1)
    theirs.update((query @ candidates.T)[0], torch.arange(4) == right, torch.zeros(4, dtype=torch.long))
    assert theirs.compute() == (1 if right == 0 else 0)
    assert score(rank(query, candidates, [{right: 1.0}]), [HitRate(1), HitRate(3), HitRate(4)]) == {
        "hit@1": 0,
        "hit@3": 0,
        "hit@4": 1,
    }


def test_needs_enough_candidates_kept():
    with pytest.raises(ValueError, match="k >= 5"):
        per_query_metrics(rank(unit(1, 4), unit(5, 4), [{0: 1.0}], k=3), ks=(5,))


CLASSES = [getattr(public, name) for name in public.__all__ if name[0].isupper()]
METRICS = [cls for cls in CLASSES if issubclass(cls, RetrievalMetric) and cls is not RetrievalMetric]


def graded(seed=0):
    """Thirty queries with several relevant candidates of different relevance each."""
    rng = random.Random(seed)
    qrels = [{c: rng.randint(1, 3) for c in rng.sample(range(40), rng.randint(1, 8))} for _ in range(30)]
    return rank(unit(30, 8, seed=seed), unit(40, 8, seed=seed + 100), qrels)


def part(ranking, rows):
    return public.Ranking(*(getattr(ranking, name)[rows] for name in vars(ranking)))


def made():
    return [cls(k) for cls in METRICS for k in KS] + [NDCG(k, "exponential") for k in KS]


def test_the_classes_are_the_figures_of_an_evaluation():
    ranking = graded()
    expected = {name.replace("ndcg_linear", "ndcg"): value for name, value in mean_metrics(ranking).items()}
    assert score(ranking, made()) == expected
    assert len(expected) == len(KS) * (len(METRICS) + 1) == 24
    assert list(score(ranking, training_metrics())) == ["hit@1", "hit@5", "hit@10", "ndcg@5"]


@pytest.mark.parametrize("cuts", [(30,), (1, 29), (7, 3, 20)])
def test_updates_add_up_to_the_mean_over_queries(cuts):
    ranking = graded()
    start = 0
    metrics = made()
    for size in cuts:
        for metric in metrics:
            metric.update(part(ranking, slice(start, start + size)))
        start += size
    others = made()
    expected = score(ranking, others)
    for metric, again in zip(metrics, others, strict=True):
        assert metric.compute().item() == pytest.approx(expected[metric.name], rel=1e-14)
        assert not again.update_called, "scoring leaves no state behind"


class WorstRank(RankingMetric):
    """A metric of somebody else's: not a mean, states of its own."""

    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("worst", torch.zeros(()), dist_reduce_fx="max")

    def update(self, ranking):
        hits = ranking.relevance > 0
        first = torch.where(hits.any(1), hits.int().argmax(1) + 1, hits.shape[1] + 1)
        self.worst = torch.maximum(self.worst, first.max().float())

    def compute(self):
        return self.worst


class Everything(WorstRank):
    name = "everything"

    def compute(self):
        return torch.arange(3)


def test_a_metric_need_not_be_a_mean():
    query, candidates = on_axis(0.9, 0.8, 0.7)
    metrics = [WorstRank(), MRR(2)]
    for right in (2, 1):  # the larger first: nothing is left of the ranking before
        found = score(rank(query, candidates, [{right: 1.0}]), metrics)
        assert found == {"WorstRank": right + 1, "mrr@2": 0.5 if right == 1 else 0}
    with pytest.raises(ConfigError, match=r"everything returned tensor.*one number"):
        score(rank(query, candidates, [{1: 1.0}]), [Everything()])


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([HitRate(1), HitRate(5), HitRate(1)], "model.metrics has more than one hit@1"),
        ([WorstRank(), WorstRank()], "more than one WorstRank"),
        ([], "model.metrics is empty"),
    ],
)
def test_refuses_metrics_that_cannot_be_told_apart(metrics, message):
    with pytest.raises(ConfigError, match=message):
        check_metrics(metrics, "model.metrics")
    check_metrics([HitRate(1), NDCG(1), NDCG(1, "exponential"), WorstRank(), Everything()], "model.metrics")


@pytest.mark.parametrize(
    ("make", "message"), [(lambda: HitRate(0), "HitRate: k is 0"), (lambda: NDCG(5, "log"), "NDCG: gain is 'log'")]
)
def test_refuses_options_out_of_range(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
