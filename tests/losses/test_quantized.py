import pytest
import torch
from loss_batches import NONE, distinct, unit
from sentence_transformers.util import quantize_embeddings

from embedrl.errors import ConfigError
from embedrl.losses.info_nce import InfoNCE
from embedrl.losses.matryoshka import Matryoshka
from embedrl.losses.quantized import QuantizationAware, quantize


@pytest.mark.parametrize(("precision", "least"), [("int8", 0.9999), ("binary", 0.5)])
def test_quantized_vectors_are_near_unit_vectors(precision, least):
    vectors = unit(50, 64)
    stored = quantize(vectors, precision)
    torch.testing.assert_close(stored.norm(dim=1), torch.ones(50, dtype=torch.float64))
    assert (stored * vectors).sum(1).min() > least


def test_binary_keeps_the_signs_that_sentence_transformers_keeps():
    vectors = unit(4, 16)
    bits = quantize_embeddings(vectors.float().numpy(), "ubinary")
    signs = torch.tensor([[int(bit) for byte in row for bit in f"{byte:08b}"] for row in bits])
    assert torch.equal((quantize(vectors, "binary") > 0).long(), signs)


def test_int8_has_whole_levels():
    vectors = unit(4, 16)
    levels = quantize(vectors, "int8")
    levels = levels / levels.abs().amax(1, keepdim=True) * 127
    torch.testing.assert_close(levels, levels.round())


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_the_gradient_passes_straight_through(precision):
    queries, targets = (side.requires_grad_() for side in (unit(5, 8), unit(5, 8, seed=1)))
    loss, metrics = QuantizationAware(InfoNCE(0.1), precision, 0.5)(queries, targets, NONE, distinct(5))
    stored = [quantize(side.detach(), precision).requires_grad_() for side in (queries, targets)]
    rounded, _ = InfoNCE(0.1)(*stored, NONE, distinct(5))
    exact, _ = InfoNCE(0.1)(queries, targets, NONE, distinct(5))
    torch.testing.assert_close(loss, exact + 0.5 * rounded)
    assert metrics[f"loss_{precision}"] == pytest.approx(rounded.item())
    parts = zip(torch.autograd.grad(exact, (queries, targets)), torch.autograd.grad(rounded, stored), strict=True)
    for mine, (a, b) in zip(torch.autograd.grad(loss, (queries, targets)), parts, strict=True):
        torch.testing.assert_close(mine, a + 0.5 * b)


def test_keeps_the_lengths_of_a_matryoshka_loss():
    assert QuantizationAware(Matryoshka(InfoNCE(), [4]), "int8").dims == [4]


def test_refuses_a_weight_that_is_not_positive():
    with pytest.raises(ConfigError, match=r"loss\.weight"):
        QuantizationAware(InfoNCE(), "int8", 0.0)
