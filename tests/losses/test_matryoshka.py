import pytest
import torch
from loss_batches import NONE, distinct, unit
from open_clip.loss import ClipLoss

from embedrl.errors import ConfigError
from embedrl.losses.info_nce import InfoNCE
from embedrl.losses.matryoshka import Matryoshka, truncate


def test_is_the_weighted_sum_over_the_lengths():
    mine, theirs = ([unit(5, 8).requires_grad_(), unit(5, 8, seed=1).requires_grad_()] for _ in range(2))
    loss, metrics = Matryoshka(InfoNCE(0.05), [2, 4], [0.5, 2.0])(*mine, NONE, distinct(5))
    clip = ClipLoss()
    expected = clip(*theirs, logit_scale=20.0)
    for dim, weight in ((2, 0.5), (4, 2.0)):
        short = [side[:, :dim] / side[:, :dim].norm(dim=1, keepdim=True) for side in theirs]
        part = clip(*short, logit_scale=20.0)
        assert metrics[f"loss_{dim}"] == pytest.approx(part.item())
        expected = expected + weight * part
    torch.testing.assert_close(loss, expected)
    for a, b in zip(torch.autograd.grad(loss, mine), torch.autograd.grad(expected, theirs), strict=True):
        torch.testing.assert_close(a, b)


def test_metrics_are_those_of_the_whole_vectors():
    queries, targets = unit(5, 8), unit(5, 8, seed=1)
    _, whole = InfoNCE(0.05)(queries, targets, NONE, distinct(5))
    _, metrics = Matryoshka(InfoNCE(0.05), [2])(queries, targets, NONE, distinct(5))
    assert {name: metrics[name] for name in whole} == whole


def test_truncated_vectors_are_unit_vectors():
    assert torch.allclose(truncate(unit(3, 8), 3).norm(dim=1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("dims", [[], [0], [2, 2], [-1]])
def test_refuses_lengths_that_are_none(dims):
    with pytest.raises(ConfigError, match=r"loss\.dims"):
        Matryoshka(InfoNCE(), dims)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0]])
def test_refuses_weights_that_do_not_fit(weights):
    with pytest.raises(ConfigError, match=r"loss\.weights"):
        Matryoshka(InfoNCE(), [2, 4], weights)


@pytest.mark.parametrize("dim", [8, 4096])
def test_refuses_a_length_of_the_whole_vector_or_more(dim):
    with pytest.raises(ConfigError, match=rf"loss\.dims has {dim}, but the model's vectors have 8"):
        Matryoshka(InfoNCE(), [4, dim])(unit(2, 8), unit(2, 8, seed=1), NONE, distinct(2))
