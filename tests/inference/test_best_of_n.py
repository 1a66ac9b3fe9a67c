"""Which of several T-CoTs is kept, against plain loops."""

import pytest
import torch
from torch.nn.functional import normalize

from embedrl.inference.best_of_n import gaps, medoid


@pytest.mark.parametrize("seed", range(5))
def test_the_medoid_has_the_greatest_mean_similarity_to_the_others(seed):
    vectors = normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)), dim=1)
    means = [sum(float(a @ b) for j, b in enumerate(vectors) if j != i) / 5 for i, a in enumerate(vectors)]
    assert medoid(vectors) == means.index(max(means))


def test_of_equal_vectors_the_first():
    assert medoid(torch.eye(3)[[1, 1, 2]]) == 0


def test_gaps_within_pools():
    g = torch.Generator().manual_seed(0)
    queries, candidates = (normalize(torch.randn(n, 4, generator=g), dim=1) for n in (3, 5))
    pools = [None, [4, 1], [2]]
    expected = []
    for query, pool in zip(queries, pools, strict=True):
        ranked = sorted((float(query @ candidates[i]) for i in pool or range(5)), reverse=True)
        expected.append(ranked[0] - ranked[1] if len(ranked) > 1 else 0.0)
    assert gaps(queries, candidates, pools) == pytest.approx(expected, abs=1e-6)
