import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.loss import ClipLoss

from embedrl.errors import ConfigError
from embedrl.losses.contrastive import InfoNCE, PairKeys, key_hashes


def unit(*shape, seed=0):
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(vectors, dim=-1)


def keys(queries, targets, negatives=()):
    return PairKeys(*(key_hashes([str(k) for k in side]) for side in (queries, targets, negatives)))


def distinct(n, negatives=0):
    return keys(range(n), range(100, 100 + n), range(200, 200 + negatives))


NONE = torch.empty(0, 8, dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 2, 17])
@pytest.mark.parametrize("mask", [True, False])
def test_equals_clip_loss_without_duplicates(n, mask):
    mine, theirs = ([unit(n, 8).requires_grad_(), unit(n, 8, seed=1).requires_grad_()] for _ in range(2))
    loss, _ = InfoNCE(0.02, mask)(*mine, NONE, distinct(n))
    expected = ClipLoss()(*theirs, logit_scale=50.0)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    for a, b in zip(torch.autograd.grad(loss, mine), torch.autograd.grad(expected, theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def brute_force(queries, targets, negatives, q_keys, t_keys, n_keys, tau):
    """The definition, row by row, with sets."""
    n = len(queries)
    sides = [*zip(targets, t_keys, strict=True), *zip(negatives, n_keys, strict=True)]
    total = 0.0
    for i in range(n):
        positives = {t_keys[j] for j in range(n) if q_keys[j] == q_keys[i]}
        own = torch.dot(queries[i], targets[i]) / tau
        terms = [own] + [
            torch.dot(queries[i], v) / tau for j, (v, k) in enumerate(sides) if j != i and k not in positives
        ]
        total = total + torch.logsumexp(torch.stack(terms), 0) - own
        askers = {q_keys[j] for j in range(n) if t_keys[j] == t_keys[i]}
        terms = [own] + [
            torch.dot(targets[i], queries[j]) / tau for j in range(n) if j != i and q_keys[j] not in askers
        ]
        total = total + torch.logsumexp(torch.stack(terms), 0) - own
    return total / (2 * n)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(0, 4), st.randoms(use_true_random=False))
def test_masks_duplicates_and_hard_negatives_as_defined(n, m, rng):
    q_keys = [rng.choice("abcd") for _ in range(n)]
    t_keys, n_keys = ([rng.choice("uvwx") for _ in range(size)] for size in (n, m))
    queries, targets, negatives = unit(n, 8), unit(n, 8, seed=1), unit(m, 8, seed=2)
    loss, metrics = InfoNCE(0.1)(queries, targets, negatives, keys(q_keys, t_keys, n_keys))
    torch.testing.assert_close(loss, brute_force(queries, targets, negatives, q_keys, t_keys, n_keys, 0.1))
    assert all(torch.isfinite(v) for v in metrics.values())


def test_a_duplicate_target_costs_nothing_when_masked():
    queries, targets = unit(4, 8), unit(4, 8, seed=1)
    targets[1] = targets[0]
    duplicate = keys("abcd", "xxyz")
    masked, metrics = InfoNCE()(queries, targets, NONE, duplicate)
    paper, _ = InfoNCE(mask_duplicates=False)(queries, targets, NONE, duplicate)
    clip = ClipLoss()(queries, targets, logit_scale=50.0)
    torch.testing.assert_close(paper, clip)
    assert masked < paper
    assert metrics["masked"] == pytest.approx(2 / 12)


def test_only_queries_see_hard_negatives():
    queries, targets, negatives = unit(3, 8).requires_grad_(), unit(3, 8, seed=1).requires_grad_(), unit(5, 8, seed=2)
    without, _ = InfoNCE(0.1)(queries, targets, NONE, distinct(3))
    loss, _ = InfoNCE(0.1)(queries, targets, negatives, distinct(3, 5))
    logits = queries @ torch.cat([targets, negatives]).T / 0.1
    there = torch.nn.functional.cross_entropy(logits, torch.arange(3))
    back = torch.nn.functional.cross_entropy(logits[:, :3].T, torch.arange(3))
    torch.testing.assert_close(loss, (there + back) / 2)
    assert loss > without


def test_metrics_by_hand():
    queries = torch.eye(3)
    targets = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0], [0, 0.8, 0.6]])
    _, metrics = InfoNCE()(queries, targets, torch.tensor([[0.0, 0, 0.6]]), distinct(3, 1))
    assert metrics["similarity_positive"] == pytest.approx((1 + 0.8 + 0.6) / 3)
    assert metrics["similarity_negative"] == pytest.approx((0.6 + 0 + 0 + 0 + 0.8 + 0 + 0 + 0 + 0.6) / 9)
    assert metrics["hit@1"] == pytest.approx(1 / 3)  # the second ties with target 3, the third with the hard negative
    assert metrics["masked"] == 0


def test_autocast_leaves_the_similarities_in_float32():
    queries, targets = unit(8, 8).float(), unit(8, 8, seed=1).float()
    plain, _ = InfoNCE()(queries, targets, NONE.float(), distinct(8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast, _ = InfoNCE()(queries, targets, NONE.float(), distinct(8))
    assert cast == plain


def test_key_hashes_are_stable_and_distinct():
    assert key_hashes(["a", "b", "a"]).tolist() == [4681665781835383343, -8902839231844102283, 4681665781835383343]
    assert key_hashes([]).shape == (0,)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_refuses_a_temperature_that_is_not_positive(temperature):
    with pytest.raises(ConfigError, match="temperature"):
        InfoNCE(temperature)
