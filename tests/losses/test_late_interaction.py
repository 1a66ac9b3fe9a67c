import math

import pytest
import torch
from loss_batches import distinct, labels_of
from sentence_transformers.multi_vector_encoder.scoring import colbert_scores
from token_vectors import slow_maxsim, tokens

from embedrl.errors import ConfigError
from embedrl.losses.info_nce import InfoNCE
from embedrl.losses.late_interaction import MaxSimInfoNCE
from embedrl.losses.matryoshka import Matryoshka
from embedrl.losses.maxsim import token_mask
from embedrl.losses.quantized import QuantizationAware
from embedrl.losses.weighted_sum import WeightedSum

QUERIES, TARGETS, NEGATIVES = tokens(3, 1, 5), tokens(2, 6, 4, seed=1), tokens(3, 2, seed=2)
NONE = torch.empty(0, 1, 4, dtype=torch.float64)


def slow_loss(temperature, masked=(), normalize=True):
    """Both sums as loops; `masked` are pairs of a query and a candidate that do not count."""
    total = 0.0
    for i, query in enumerate(QUERIES):
        length = 1 if normalize else int(token_mask(query[None]).sum())
        scores = [length * slow_maxsim(query, side) / temperature for side in (*TARGETS, *NEGATIVES)]
        total -= scores[i] - math.log(sum(math.exp(s) for j, s in enumerate(scores) if (i, j) not in masked))
    return total / len(QUERIES)


@pytest.mark.parametrize("normalize", [True, False])
def test_is_the_double_loop(normalize):
    loss, metrics = MaxSimInfoNCE(0.2, normalize=normalize)(QUERIES, TARGETS, NEGATIVES, distinct(3, 2))
    assert loss.item() == pytest.approx(slow_loss(0.2, normalize=normalize))
    positive = [slow_maxsim(q, t) for q, t in zip(QUERIES, TARGETS, strict=True)]
    assert metrics["similarity_positive"].item() == pytest.approx(sum(positive) / 3)
    assert metrics["masked"] == 0


def test_known_positives_are_left_out():
    labels = labels_of([0, 1, 2], [10, 11, 10], [11, 30], [1, 1, 0])  # targets 0 and 2 are alike, 1 and a negative too
    masked = {(0, 2), (2, 0), (1, 3)}
    loss, metrics = MaxSimInfoNCE(0.2)(QUERIES, TARGETS, NEGATIVES, labels)
    assert loss.item() == pytest.approx(slow_loss(0.2, masked))
    assert metrics["masked"].item() == pytest.approx(3 / 12)
    plain, _ = MaxSimInfoNCE(0.2, mask_duplicates=False)(QUERIES, TARGETS, NEGATIVES, labels)
    assert plain.item() == pytest.approx(slow_loss(0.2))


@pytest.mark.parametrize(("normalize", "temperature"), [(False, 1.0), (True, 0.02)])
def test_equals_the_scores_of_sentence_transformers_under_cross_entropy(normalize, temperature):
    """ColBERT's and ColPali's loss: the cross-entropy of the query's own document among all."""
    mine, theirs = ([side.float().requires_grad_() for side in (QUERIES, TARGETS)] for _ in range(2))
    loss, _ = MaxSimInfoNCE(temperature, normalize=normalize)(*mine, NONE.float(), distinct(3))
    masks = [token_mask(theirs[0]), token_mask(theirs[1])[:, None]]
    scores = colbert_scores(theirs[0], theirs[1][:, None], *masks, length_normalize=normalize)
    expected = torch.nn.functional.cross_entropy(scores / temperature, torch.arange(3))
    torch.testing.assert_close(loss, expected)
    for a, b in zip(torch.autograd.grad(loss, mine), torch.autograd.grad(expected, theirs), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaxSimInfoNCE(0.0), r"loss\.temperature is 0"),
        (lambda: MaxSimInfoNCE(float("nan")), r"loss\.temperature is nan"),
        (lambda: Matryoshka(MaxSimInfoNCE(), [2]), "compares one vector a token: Matryoshka takes"),
        (lambda: QuantizationAware(MaxSimInfoNCE(), "int8"), "compares one vector a token: QuantizationAware takes"),
        (lambda: WeightedSum([MaxSimInfoNCE(), InfoNCE()], [1, 1]), "some compare one vector a token"),
    ],
)
def test_refuses_what_cannot_be(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_sum_of_losses_on_tokens_is_one():
    assert WeightedSum([MaxSimInfoNCE(0.1), MaxSimInfoNCE(1.0)], [1, 1]).multi_vector
    assert not WeightedSum([InfoNCE()], [1]).multi_vector
