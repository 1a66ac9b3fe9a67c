import pytest
import torch
from loss_batches import NONE, distinct, labels_of, unit
from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss

from embedrl.errors import ConfigError, DataError
from embedrl.losses.distillation import Distillation

NAN = float("nan")


def test_equals_sentence_transformers():
    mine, theirs = ([unit(4, 8).requires_grad_(), unit(4, 8, seed=1).requires_grad_(),
                     unit(8, 8, seed=2).requires_grad_()] for _ in range(2))  # fmt: skip
    scores = torch.randn(4, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    labels = labels_of("abcd", "wxyz", range(8), [2] * 4, scores=scores[:, 0].tolist(),
                       negative_scores=scores[:, 1:].flatten().tolist())  # fmt: skip
    loss, metrics = Distillation(0.05, 0.5)(*mine, labels)
    queries, targets, negatives = theirs
    reference = DistillKLDivLoss(None, student_temperature=0.05, teacher_temperature=0.5)
    # Theirs is multiplied by the square of the Embedder's temperature.
    expected = (
        reference.compute_loss_from_embeddings([queries, targets, negatives[::2], negatives[1::2]], scores) / 0.05**2
    )
    torch.testing.assert_close(loss, expected)
    for a, b in zip(torch.autograd.grad(loss, mine), torch.autograd.grad(expected, theirs), strict=True):
        torch.testing.assert_close(a, b)
    assert 0 <= metrics["teacher_agreement"] <= 1


def test_ragged_negatives_and_pairs_without_scores():
    queries, targets, negatives = unit(4, 8), unit(4, 8, seed=1), unit(4, 8, seed=2)
    # Pair 0 has one scored negative, 1 has two, 2 has a score but no negative, 3 has no scores.
    labels = labels_of("abcd", "wxyz", range(4), [1, 2, 0, 1], scores=[2.0, 1.0, 5.0, NAN],
                       negative_scores=[0.0, 1.5, -1.0, NAN])  # fmt: skip
    loss, _ = Distillation(0.1)(queries, targets, negatives, labels)
    total = 0.0
    for i, others, teacher in ((0, [0], [2.0, 0.0]), (1, [1, 2], [1.0, 1.5, -1.0])):
        student = torch.stack([queries[i] @ targets[i], *(queries[i] @ negatives[j] for j in others)]) / 0.1
        p = torch.tensor(teacher, dtype=torch.float64).softmax(0)
        total += (p * (p.log() - student.log_softmax(0))).sum()
    torch.testing.assert_close(loss, total / 2)


def test_gradients_are_finite_with_absent_candidates():
    queries, targets, negatives = (
        side.requires_grad_() for side in (unit(2, 8), unit(2, 8, seed=1), unit(3, 8, seed=2))
    )
    labels = labels_of("ab", "yz", "nop", [1, 2], scores=[900.0, 1.0], negative_scores=[-900.0, 1.0, 2.0])
    loss, _ = Distillation(0.02)(queries, targets, negatives, labels)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, (queries, targets, negatives)))


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (distinct(2, 2), "no pair of this batch has a score"),
        (distinct(2, 2, scores=[1.0, 2.0]), "for some of its candidates only"),
        (
            labels_of("ab", "yz", "no", [1, 1], scores=[1.0, 2.0], negative_scores=[1.0, NAN]),
            "for some of its candidates",
        ),
        (labels_of("ab", "yz", (), [], scores=[1.0, 2.0]), "no pair of this batch has a scored negative"),
    ],
)
def test_refuses_scores_that_are_missing(labels, problem):
    negatives = unit(2, 8, seed=2) if len(labels.negatives) else NONE
    with pytest.raises(DataError, match=f"Distillation: .*{problem}.*negative_scores"):
        Distillation()(unit(2, 8), unit(2, 8, seed=1), negatives, labels)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"teacher_temperature": -1.0}])
def test_refuses_temperatures_that_are_not_positive(options):
    with pytest.raises(ConfigError, match=r"loss\."):
        Distillation(**options)
