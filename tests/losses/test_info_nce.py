import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_batches import NONE, distinct, labels_of, unit
from open_clip.loss import ClipLoss
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from embedrl.errors import ConfigError
from embedrl.losses.info_nce import InfoNCE


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
    loss, metrics = InfoNCE(0.1)(queries, targets, negatives, labels_of(q_keys, t_keys, n_keys))
    torch.testing.assert_close(loss, brute_force(queries, targets, negatives, q_keys, t_keys, n_keys, 0.1))
    assert all(torch.isfinite(v) for v in metrics.values())


def test_a_duplicate_target_costs_nothing_when_masked():
    queries, targets = unit(4, 8), unit(4, 8, seed=1)
    targets[1] = targets[0]
    duplicate = labels_of("abcd", "xxyz")
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


@pytest.mark.parametrize(
    "extra", [(), ("query-query",), ("target-target",), ("query-query", "target-target")], ids="+".join
)
@pytest.mark.parametrize("hardness", [0.0, 9.0])
def test_extra_negatives_and_hardness_equal_sentence_transformers(extra, hardness):
    mine, theirs = ([unit(5, 8).requires_grad_(), unit(5, 8, seed=1).requires_grad_()] for _ in range(2))

    def one_way(anchors, others, names):
        reference = MultipleNegativesRankingLoss(
            None,
            scale=1 / 0.1,
            directions=("query_to_doc", *(names[name] for name in extra)),
            hardness_mode="in_batch_negatives" if hardness else None,
            hardness_strength=hardness,
        )
        return reference.compute_loss_from_embeddings([anchors, others], torch.empty(0))

    queries, targets = theirs
    there = one_way(queries, targets, {"query-query": "query_to_query", "target-target": "doc_to_doc"})
    back = one_way(targets, queries, {"query-query": "doc_to_doc", "target-target": "query_to_query"})
    loss, _ = InfoNCE(0.1, extra_negatives=extra, hardness=hardness)(
        *(torch.nn.functional.normalize(side, dim=-1) for side in mine), NONE, distinct(5)
    )
    torch.testing.assert_close(loss, (there + back) / 2)
    for a, b in zip(torch.autograd.grad(loss, mine), torch.autograd.grad((there + back) / 2, theirs), strict=True):
        torch.testing.assert_close(a, b)


def test_hardness_weighs_hard_negatives_of_the_data_too():
    queries, targets, negatives = unit(3, 8), unit(3, 8, seed=1), unit(2, 8, seed=2)
    loss, _ = InfoNCE(0.1, hardness=5.0)(queries, targets, negatives, distinct(3, 2))
    total = 0.0
    for i in range(3):
        for anchor, own, others in (
            (queries[i], targets[i], [*targets, *negatives]),
            (targets[i], queries[i], queries),
        ):
            terms = [anchor @ own / 0.1]
            terms += [anchor @ v / 0.1 + 5.0 * (anchor @ v) for j, v in enumerate(others) if j != i]
            total += torch.logsumexp(torch.stack(terms), 0) - anchor @ own / 0.1
    torch.testing.assert_close(loss, total / 6)


@pytest.mark.parametrize("extra", [(), ("query-query", "target-target")], ids="+".join)
def test_the_margin_masks_what_is_more_alike_than_the_target(extra):
    queries, targets, negatives = unit(6, 4), unit(6, 4, seed=1), unit(4, 4, seed=2)
    loss, metrics = InfoNCE(0.1, False, 0.1, extra)(queries, targets, negatives, distinct(6, 4))
    total, masked = 0.0, 0
    for i in range(6):
        own = queries[i] @ targets[i]
        more = []
        if extra:
            more = [queries[i] @ queries[j] for j in range(6) if j != i]
            more += [targets[i] @ targets[j] for j in range(6) if j != i]
        there = [queries[i] @ v for j, v in enumerate([*targets, *negatives]) if j != i]
        masked += sum(bool(s > own + 0.1) for s in there)
        back = [targets[i] @ queries[j] for j in range(6) if j != i]
        for terms in (there, back):
            kept = [own, *(s for s in [*terms, *more] if s <= own + 0.1)]
            total += torch.logsumexp(torch.stack(kept) / 0.1, 0) - own / 0.1
    torch.testing.assert_close(loss, total / 12)
    assert masked > 0
    assert metrics["masked"] == pytest.approx(masked / (6 * 9))


def test_sides_that_share_a_positive_are_no_extra_negatives():
    queries, targets = unit(3, 8), unit(3, 8, seed=1)
    labels = labels_of("aab", "xyy")  # a has x and y, b has y: x alone is a negative of b
    loss, _ = InfoNCE(0.1, extra_negatives=["query-query"])(queries, targets, NONE, labels)
    own = [queries[i] @ targets[i] / 0.1 for i in range(3)]
    q, t = queries, targets
    # Row by row: which targets, and which queries of the way back are negatives; a and b share y.
    there = [[], [], [q[2] @ t[0]]]
    back = [[q[2] @ t[0]], [], []]
    total = 0.0
    for i in range(3):
        for terms in (there[i], back[i]):
            logits = torch.stack([own[i], *(s / 0.1 for s in terms)])
            total += torch.logsumexp(logits, 0) - own[i]
    torch.testing.assert_close(loss, total / 6)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"false_negative_margin": -0.1}, "false_negative_margin"),
        ({"hardness": -1.0}, "hardness"),
    ],
)
def test_refuses_values_out_of_range(options, word):
    with pytest.raises(ConfigError, match=rf"loss\.{word}"):
        InfoNCE(**options)
