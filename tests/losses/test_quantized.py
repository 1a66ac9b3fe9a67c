import pytest
import torch
from loss_batches import NONE, distinct, unit

from embedrl.errors import ConfigError
from embedrl.losses.info_nce import InfoNCE
from embedrl.losses.matryoshka import Matryoshka
from embedrl.losses.quantized import QuantizationAware
from embedrl.losses.storage import Bounds, stored


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_the_gradient_passes_straight_through(precision):
    queries, targets = (side.requires_grad_() for side in (unit(5, 8), unit(5, 8, seed=1)))
    loss, metrics = QuantizationAware(InfoNCE(0.1), precision, 0.5)(queries, targets, NONE, distinct(5))
    bounds = Bounds.of(targets.detach())  # the candidates'
    kept = [stored(side.detach(), precision, bounds).requires_grad_() for side in (queries, targets)]
    rounded, _ = InfoNCE(0.1)(*kept, NONE, distinct(5))
    exact, _ = InfoNCE(0.1)(queries, targets, NONE, distinct(5))
    torch.testing.assert_close(loss, exact + 0.5 * rounded)
    assert metrics[f"loss_{precision}"] == pytest.approx(rounded.item())
    parts = zip(torch.autograd.grad(exact, (queries, targets)), torch.autograd.grad(rounded, kept), strict=True)
    for mine, (a, b) in zip(torch.autograd.grad(loss, (queries, targets)), parts, strict=True):
        torch.testing.assert_close(mine, a + 0.5 * b)


def test_keeps_the_lengths_of_a_matryoshka_loss():
    assert QuantizationAware(Matryoshka(InfoNCE(), [4]), "int8").dims == [4]


def test_refuses_a_weight_that_is_not_positive():
    with pytest.raises(ConfigError, match=r"loss\.weight"):
        QuantizationAware(InfoNCE(), "int8", 0.0)
