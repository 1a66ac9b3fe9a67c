import pytest
import torch
from open_clip.loss import ClipLoss

from embedrl.errors import ConfigError
from embedrl.losses.contrastive import batch_labels
from embedrl.losses.info_nce import InfoNCE
from embedrl.losses.late_interaction import MaxSimInfoNCE
from embedrl.losses.unified import LossRow, ReasoningLoss, UnifiedBatch, VectorLoss, check_losses, total_loss

PAIRS, DIM = 5, 8


def batch(negatives=0):
    """Queries, targets and negatives in a drawn order."""
    generator = torch.Generator().manual_seed(0)
    kind = torch.tensor([0] * PAIRS + [1] * PAIRS + [2] * negatives)
    kind = kind[torch.randperm(len(kind), generator=generator)]
    vectors = torch.nn.functional.normalize(torch.randn(2, len(kind), DIM, generator=generator), dim=-1)
    keys = [[f"{name}{i}" for i in range(PAIRS)] for name in "qt"]
    labels = batch_labels(*keys, [f"n{i}" for i in range(negatives)], [negatives, *[0] * (PAIRS - 1)])
    nll, tokens = torch.rand(2, len(kind), generator=generator)
    named = {"disc": vectors[0].requires_grad_(), "gen": vectors[1].requires_grad_()}
    return UnifiedBatch(named, (10 * nll).requires_grad_(), (9 * tokens).round() + 1, kind, labels)


@pytest.mark.parametrize("vector", ["disc", "gen"])
def test_a_contrastive_part_is_open_clips(vector):
    one = batch()
    value, metrics = VectorLoss(vector, InfoNCE(0.02))(one)
    queries, targets = (one.vectors[vector][one.kind == i] for i in range(2))
    torch.testing.assert_close(value, ClipLoss()(queries, targets, logit_scale=50.0))
    assert set(metrics) == {f"{vector}/{m}" for m in ("hit@1", "similarity_positive", "similarity_negative", "masked")}


def test_the_parts_add_up_with_their_weights():
    one = batch(negatives=2)
    rows = [
        LossRow(VectorLoss("disc", InfoNCE(0.05)), 0.5),
        LossRow(VectorLoss("gen", InfoNCE(0.02))),
        LossRow(ReasoningLoss("query"), 2.0),
        LossRow(ReasoningLoss("target"), 3.0),
    ]
    total, metrics = total_loss(rows, one)
    expected = 0.0
    for weight, role in ((2.0, 0), (3.0, 1)):
        mine = one.kind == role
        expected += weight * sum(one.nll[mine].tolist()) / sum(one.tokens[mine].tolist())
    for weight, vector, temperature in ((0.5, "disc", 0.05), (1.0, "gen", 0.02)):
        sides = [one.vectors[vector][one.kind == i] for i in range(3)]
        expected += weight * InfoNCE(temperature)(*sides, one.labels)[0].item()
    assert total.item() == pytest.approx(expected)
    assert {"loss_disc", "loss_gen", "loss_reasoning_query", "loss_reasoning_target"} < set(metrics)
    total.backward()
    assert one.nll.grad[one.kind == 2].abs().sum() == 0  # a negative's reasoning is read, not written


def test_no_reasoning_at_all_is_a_loss_of_zero():
    one = batch()
    none = UnifiedBatch(one.vectors, torch.zeros(10), torch.zeros(10), one.kind, one.labels)
    assert ReasoningLoss("query")(none)[0] == 0


GEN, DISC = (VectorLoss(vector, InfoNCE()) for vector in ("gen", "disc"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "model.losses is empty"),
        ([LossRow(GEN), LossRow(VectorLoss("gen", InfoNCE()))], "two parts are named 'gen'"),
        ([LossRow(GEN, 0.0)], "weight 0.0 of gen"),
        ([LossRow(DISC)], "set backbone.layout.disc: true"),
        ([LossRow(GEN), LossRow(ReasoningLoss("query"))], ""),
    ],
)
def test_which_lists_of_losses_fit_a_model_with_gen_alone(rows, message):
    if not message:
        return check_losses(rows, ["gen"])
    with pytest.raises(ConfigError, match=message):
        check_losses(rows, ["gen"])
    return None


def test_unknown_vectors_roles_and_token_losses_are_refused():
    with pytest.raises(ConfigError, match=r"losses.vector is 'both': give disc or gen"):
        VectorLoss("both", InfoNCE())
    with pytest.raises(ConfigError, match=r"losses.role is 'negative': give query or target"):
        ReasoningLoss("negative")
    with pytest.raises(ConfigError, match="one vector a token"):
        VectorLoss("gen", MaxSimInfoNCE())
