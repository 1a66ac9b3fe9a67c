import pytest
import torch
from sklearn.cluster import AgglomerativeClustering
from token_vectors import tokens

from embedrl.models.token_pooling import mean_of_groups, pool_tokens, token_groups

SIDE = tokens(40, dim=8)[0]


@pytest.mark.parametrize("budget", [1, 7, 39])
def test_hierarchical_groups_are_wards_clusters(budget):
    """scikit-learn's clusters of the same vectors, numbered by their first tokens."""
    groups = token_groups(SIDE, budget, "hierarchical").tolist()
    labels = AgglomerativeClustering(budget, linkage="ward").fit_predict(SIDE.numpy()).tolist()
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    assert groups == [numbers[label] for label in labels]


def test_sequential_groups_are_runs_of_like_length():
    groups = token_groups(SIDE, 7, "sequential")
    assert groups.diff().min() >= 0
    assert groups.unique().tolist() == list(range(7))
    assert set(groups.bincount().tolist()) == {5, 6}


@pytest.mark.parametrize("pooling", ["hierarchical", "sequential"])
@pytest.mark.parametrize("budget", [40, 64])
def test_within_the_budget_every_token_keeps_its_vector(pooling, budget):
    torch.testing.assert_close(pool_tokens(SIDE, budget, pooling), SIDE)


def test_the_vector_of_a_group_is_its_mean_with_a_gradient_to_every_token():
    side, groups = SIDE.clone().requires_grad_(), token_groups(SIDE, 7, "hierarchical")
    pooled = mean_of_groups(side, groups)
    for group in range(7):
        mean = SIDE[groups == group].mean(0)
        torch.testing.assert_close(pooled[group].detach(), mean / mean.norm())
    (gradient,) = torch.autograd.grad(pooled[:, 0].sum(), side)
    assert (gradient.abs().sum(1) > 0).all()
