import pytest
import torch
from loss_batches import NONE, distinct, labels_of, unit
from open_clip.loss import SigLipLoss

from embedrl.errors import ConfigError
from embedrl.losses.sigmoid import SigmoidLoss


def test_equals_open_clip():
    mine, theirs = ([unit(6, 8).requires_grad_(), unit(6, 8, seed=1).requires_grad_()] for _ in range(2))
    loss, _ = SigmoidLoss(10.0, -10.0)(*mine, NONE, distinct(6))
    expected = SigLipLoss()(*theirs, logit_scale=torch.tensor(10.0), logit_bias=torch.tensor(-10.0))
    torch.testing.assert_close(loss, expected)
    for a, b in zip(torch.autograd.grad(loss, mine), torch.autograd.grad(expected, theirs), strict=True):
        torch.testing.assert_close(a, b)


def test_duplicates_are_left_out_and_hard_negatives_count():
    queries, targets, negatives = unit(3, 8), unit(3, 8, seed=1), unit(2, 8, seed=2)
    loss, metrics = SigmoidLoss(5.0, -2.0)(queries, targets, negatives, labels_of("abc", "xxy", "xn"))
    terms = []
    for i in range(3):
        for j, (v, key) in enumerate(zip([*targets, *negatives], "xxyxn", strict=True)):
            if i == j or key != "xxy"[i]:
                sign = 1 if i == j else -1
                terms.append(-torch.nn.functional.logsigmoid(sign * (5.0 * (queries[i] @ v) - 2.0)))
    torch.testing.assert_close(loss, torch.stack(terms).sum() / 3)
    assert metrics["masked"] == pytest.approx(4 / 12)


def test_refuses_a_scale_that_is_not_positive():
    with pytest.raises(ConfigError, match=r"loss\.scale"):
        SigmoidLoss(0.0)
