import pytest
import torch
from loss_batches import NONE, distinct, unit

from embedrl.errors import ConfigError
from embedrl.losses.info_nce import InfoNCE
from embedrl.losses.matryoshka import Matryoshka
from embedrl.losses.sigmoid import SigmoidLoss
from embedrl.losses.weighted_sum import WeightedSum


def test_is_the_weighted_sum():
    queries, targets = unit(5, 8), unit(5, 8, seed=1)
    parts = [InfoNCE(0.1), SigmoidLoss()]
    loss, metrics = WeightedSum(parts, [1.0, 0.25])(queries, targets, NONE, distinct(5))
    first, second = (part(queries, targets, NONE, distinct(5))[0] for part in parts)
    torch.testing.assert_close(loss, first + 0.25 * second)
    assert metrics["loss_InfoNCE"] == first
    assert metrics["loss_SigmoidLoss"] == second


def test_knows_the_lengths_of_its_parts():
    assert WeightedSum([InfoNCE(), Matryoshka(InfoNCE(), [4, 2])], [1.0, 1.0]).dims == [2, 4]


@pytest.mark.parametrize(("losses", "weights"), [([], []), ([InfoNCE()], []), ([InfoNCE()], [0.0])])
def test_refuses_weights_that_do_not_fit(losses, weights):
    with pytest.raises(ConfigError, match=r"loss\.weights"):
        WeightedSum(losses, weights)
