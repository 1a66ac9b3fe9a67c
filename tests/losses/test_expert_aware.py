import math
from dataclasses import replace

import pytest
import torch
from loss_batches import distinct, labels_of, unit

from embedrl.errors import ConfigError
from embedrl.losses.expert_aware import ExpertAwareInfoNCE
from embedrl.losses.info_nce import InfoNCE


def with_prints(labels, progress=1.0):
    count = 2 * len(labels.queries) + len(labels.negatives)
    prints = torch.rand(count, 4, generator=torch.Generator().manual_seed(5)).softmax(-1) ** 4
    return replace(labels, fingerprints=prints, progress=progress)


def brute_force(vectors, keys, prints, beta, tau):
    """The definition, row by row: other queries and other targets are extra negatives."""
    (queries, targets, negatives), (q_keys, t_keys, n_keys) = vectors, keys
    n = len(queries)
    f = [row / math.sqrt(sum(x * x for x in row)) for row in prints.double().numpy()]
    fq, ft, fn = f[:n], f[n : 2 * n], f[2 * n :]

    def row(own, terms):
        """Terms are (similarity, cosine of fingerprints) of the negatives."""
        weights = [math.exp(beta * cos) for _, cos in terms]
        mean = sum(weights) / len(weights)
        total = math.exp(own / tau) + sum(
            w / mean * math.exp(s / tau) for w, (s, _) in zip(weights, terms, strict=True)
        )
        return math.log(total) - own / tau

    total = 0.0
    for i in range(n):
        own = float(queries[i] @ targets[i])
        known = {t_keys[j] for j in range(n) if q_keys[j] == q_keys[i]}
        asking = {q_keys[j] for j in range(n) if t_keys[j] == t_keys[i]}
        extra = [
            (float(queries[i] @ queries[j]), fq[i] @ fq[j])
            for j in range(n)
            if q_keys[j] != q_keys[i]
            and t_keys[j] not in known
            and t_keys[i] not in {t_keys[k] for k in range(n) if q_keys[k] == q_keys[j]}
        ]
        extra += [
            (float(targets[i] @ targets[j]), ft[i] @ ft[j])
            for j in range(n)
            if t_keys[j] != t_keys[i]
            and t_keys[j] not in known
            and t_keys[i] not in {t_keys[k] for k in range(n) if q_keys[k] == q_keys[j]}
        ]
        terms = [(float(queries[i] @ targets[j]), fq[i] @ ft[j]) for j in range(n) if t_keys[j] not in known]
        terms += [
            (float(queries[i] @ negatives[j]), fq[i] @ fn[j]) for j in range(len(negatives)) if n_keys[j] not in known
        ]
        back = [(float(targets[i] @ queries[j]), ft[i] @ fq[j]) for j in range(n) if q_keys[j] not in asking]
        total += row(own, terms + extra) + row(own, back + extra)
    return total / (2 * n)


@pytest.mark.parametrize("keys", [("abcd", "wxyz", "uv"), ("abca", "wxxz", "xu")])
def test_equals_a_double_loop(keys):
    labels, vectors = labels_of(*keys, counts=[1, 1, 0, 0]), [unit(4, 8), unit(4, 8, seed=1), unit(2, 8, seed=2)]
    labels = with_prints(labels)
    loss = ExpertAwareInfoNCE(3.0, 0.5, temperature=0.2, extra_negatives=["query-query", "target-target"])
    value, metrics = loss(*vectors, labels)
    assert value.item() == pytest.approx(brute_force(vectors, keys, labels.fingerprints, 3.0, 0.2), rel=1e-6)
    plain, _ = InfoNCE(0.2, extra_negatives=["query-query", "target-target"])(*vectors, labels)
    assert abs(value - plain) > 1e-4
    assert metrics["expert_beta"] == 3.0


def test_the_first_stage_is_plain_and_weights_have_no_gradient():
    vectors = [unit(4, 8).requires_grad_(), unit(4, 8, seed=1), unit(2, 8, seed=2)]
    labels = with_prints(distinct(4, 2), progress=0.49)
    labels.fingerprints.requires_grad_()
    loss = ExpertAwareInfoNCE(2.0, 0.5, 0.1)
    first, metrics = loss(*vectors, labels)
    assert torch.equal(first, InfoNCE(0.1)(*vectors, labels)[0])
    assert metrics["expert_beta"] == 0
    second, _ = loss(*vectors, replace(labels, progress=0.5))
    assert second != first
    assert torch.autograd.grad(second, labels.fingerprints, allow_unused=True) == (None,)


def test_alike_fingerprints_weigh_alike():
    labels = replace(with_prints(distinct(4, 2)), fingerprints=torch.ones(10, 4))
    vectors = [unit(4, 8), unit(4, 8, seed=1), unit(2, 8, seed=2)]
    got, expected = (loss(*vectors, labels)[0] for loss in (ExpertAwareInfoNCE(5.0, 0.0, 0.1), InfoNCE(0.1)))
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExpertAwareInfoNCE(-1.0), "loss.beta is -1.0"),
        (lambda: ExpertAwareInfoNCE(first_stage=1.5), "loss.first_stage is 1.5"),
        (
            lambda: ExpertAwareInfoNCE()(unit(2, 8), unit(2, 8), unit(0, 8), distinct(2)),
            "needs fingerprints.*lora.experts",
        ),
    ],
)
def test_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
