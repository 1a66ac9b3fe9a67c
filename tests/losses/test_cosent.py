import pytest
import torch
from loss_batches import NONE, distinct, labels_of, unit
from sentence_transformers.sentence_transformer.losses import CoSENTLoss

from embedrl.errors import ConfigError, DataError
from embedrl.losses.cosent import CoSENT

SCORES = [0.1, 0.9, 0.5, 0.5, 0.0]


def test_equals_sentence_transformers():
    mine, theirs = ([unit(5, 8).requires_grad_(), unit(5, 8, seed=1).requires_grad_()] for _ in range(2))
    loss, metrics = CoSENT(0.05)(
        *(torch.nn.functional.normalize(side, dim=-1) for side in mine), NONE, distinct(5, scores=SCORES)
    )
    expected = CoSENTLoss(None, scale=20.0).compute_loss_from_embeddings(theirs, torch.tensor(SCORES).double())
    torch.testing.assert_close(loss, expected)
    for a, b in zip(torch.autograd.grad(loss, mine), torch.autograd.grad(expected, theirs), strict=True):
        torch.testing.assert_close(a, b)
    similarity = (mine[0] * mine[1]).sum(1)
    ordered = [(a, b) for a in range(5) for b in range(5) if SCORES[a] > SCORES[b]]
    assert metrics["in_order"] == pytest.approx(sum(float(similarity[a] > similarity[b]) for a, b in ordered) / 9)
    assert len(ordered) == 9


def test_hard_negatives_with_scores_join_and_rows_without_do_not_count():
    queries, targets, negatives = unit(3, 8), unit(3, 8, seed=1), unit(2, 8, seed=2)
    nan = float("nan")
    labels = labels_of("abc", "xyz", "no", [0, 2, 0], scores=[0.9, 0.8, nan], negative_scores=[0.1, nan])
    loss, _ = CoSENT(0.05)(queries, targets, negatives, labels)
    rows = ([queries[0], queries[1], queries[1]], [targets[0], targets[1], negatives[0]])
    reference = CoSENTLoss(None, scale=20.0)
    expected = reference.compute_loss_from_embeddings(
        [torch.stack(side) for side in rows], torch.tensor([0.9, 0.8, 0.1])
    )
    torch.testing.assert_close(loss, expected)


def test_equal_labels_cost_nothing():
    loss, metrics = CoSENT()(unit(3, 8), unit(3, 8, seed=1), NONE, distinct(3, scores=[1.0, 1.0, 1.0]))
    assert loss == 0
    assert metrics["in_order"] == 0


def test_refuses_a_batch_without_scores():
    with pytest.raises(DataError, match="CoSENT: no pair of this batch has a score: give the rows"):
        CoSENT()(unit(3, 8), unit(3, 8, seed=1), NONE, distinct(3))


def test_refuses_a_temperature_that_is_not_positive():
    with pytest.raises(ConfigError, match=r"loss\.temperature"):
        CoSENT(0.0)
