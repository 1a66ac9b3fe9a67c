"""An Embedder with one vector a token: gradient caching, several processes, and losses that do not fit it."""

import copy
import functools

import dist_late
import dist_qwen
import pytest
import torch
from dist_embedder import train
from fake_backbone import FakeBackbone, FakeData, contrastive_batch
from loss_batches import distinct
from processes import WORLD, finish, launch, weights
from qwen_helpers import EMB, image, text, user
from token_vectors import FakeTokens, slow_maxsim

from embedrl.errors import ConfigError
from embedrl.losses.info_nce import InfoNCE
from embedrl.losses.late_interaction import MaxSimInfoNCE
from embedrl.models.late_interaction import LateInteraction
from embedrl.models.lora import LoRAOptions
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.training.embedder import EmbedderModule
from embedrl.training.gradient_cache import GradientCache
from embedrl.utils.ragged import cat_rows

CPU = torch.device("cpu")
CHATS = [
    [user(image(0), text("one")), EMB],
    [user(text("two")), EMB],
    [user(image(1)), EMB],
    [user(text("three four five six seven")), EMB],
]


def late(**lora):
    backbone = QwenVLBackbone("embedrl:tiny", lora=LoRAOptions(r=4, alpha=8, **lora) if lora else None)
    model = LateInteraction(backbone, dim=8, budget=6)
    torch.manual_seed(0)
    model.build()
    return model.train()


def gradients(model, batches, cached):
    """Of the loss of two pairs, with the vectors cached and without."""
    torch.manual_seed(5)
    loss_of = MaxSimInfoNCE(0.1)
    if cached:
        cache = GradientCache(model, batches, CPU, cache_vision_features=model.cache_vision_features)
        vectors = cache.forward()
    else:
        vectors = cat_rows([model(inputs) for inputs in batches])
    queries, targets = vectors[: len(vectors) // 2], vectors[len(vectors) // 2 :]
    loss, _ = loss_of(queries, targets, targets[:0], distinct(len(queries)))
    loss.backward()
    if cached:
        cache.backward(vectors.grad)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["fake", "late"])
def test_cached_gradients_are_those_of_one_pass(kind):
    """Ragged micro-batches, with dropout; sides of pictures are pooled."""
    if kind == "fake":
        model = FakeTokens(dropout=0.3)
        model.build()
        batches = contrastive_batch(0, negatives=False).micro_batches
    else:
        model = late(dropout=0.2)
        torch.nn.init.normal_(model.head.weight)
        batches = [model.preprocessor()([chat]) for chat in CHATS]
    got, expected = (gradients(copy.deepcopy(model), batches, cached) for cached in (True, False))
    assert got.keys() == expected.keys()
    assert kind == "fake" or {"head.weight"} < got.keys()
    for name, value in expected.items():
        assert (got[name] - value).norm() <= 1e-5 * value.norm(), name


def test_the_second_pass_puts_together_the_tokens_of_the_first():
    """Were clusters made again, a GPU's last bits could make others, and the gradient would be of another loss."""
    model = late()
    inputs, seen = model.preprocessor()(CHATS), []
    with torch.no_grad(), model.cache_vision_features(seen):
        first = model(inputs)
    with model.cache_vision_features(seen), pytest.MonkeyPatch.context() as patch:
        patch.delattr("embedrl.models.late_interaction.token_groups")
        second = model(inputs)
    torch.testing.assert_close(first, second.detach(), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore")
def test_validation_ranks_by_maxsim():
    _, module = train("auto", 1, backbone=FakeTokens(dropout=0.0), loss=MaxSimInfoNCE(0.1))
    data = FakeData()
    for result, (_, queries, candidates) in zip(module.validation, data.made, strict=True):
        with torch.no_grad():
            sides = [module.backbone.eval()({"x": rows}) for rows in (queries, candidates)]
        scores = torch.tensor([[slow_maxsim(q, c) for c in sides[1]] for q in sides[0]])
        assert result.ranking.indices[:, 0].tolist() == scores.argmax(1).tolist()
        hits = (scores.argmax(1) == torch.arange(7)).double().mean().item()
        assert result.metrics["hit@1"] == pytest.approx(hits)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two processes train; one trains here."""
    out = tmp_path_factory.mktemp("late")
    processes = launch("dist_late", out, log=out)
    one = dist_late.fake("auto", 1, out / "one.ckpt")
    finish(processes, out)
    return out, one


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_as_one(runs, strategy):
    out, one = runs
    expected, got = weights(out / "one.ckpt"), weights(out / f"{strategy}.ckpt")
    for name, value in expected.items():
        # Adam divides by the root of squared gradients, which enlarges the last bits of small ones.
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=5e-5)
    for rank in range(WORLD):
        result = torch.load(out / f"{strategy}.{rank}.pt", weights_only=True)
        assert result["logged"] == pytest.approx(one["logged"], rel=1e-4, abs=1e-5)
        for a, b in zip(result["vectors"], one["vectors"], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=5e-5)


@pytest.mark.dist
@pytest.mark.slow
def test_a_sharded_model_trains_as_one_and_is_copied_whole(runs):
    """The first rank alone sees pictures."""
    out, _ = runs
    trained, copied = torch.load(out / "late.pt", weights_only=True)
    chats = [*dist_qwen.CHATS[0], *dist_qwen.CHATS[1]]
    expected = dist_qwen.step(dist_late.TINY, chats, True, build=dist_late.build)
    before = dist_late.build(dist_late.TINY, True).state_dict()
    assert copied.keys() == before.keys()
    assert any("visual" in name and not torch.equal(value, before[name]) for name, value in expected.items())
    for name, value in expected.items():
        torch.testing.assert_close(copied[name], before[name])
        # Averaged over the ranks, where one process sums.
        torch.testing.assert_close(2 * (trained[name] - before[name]), value - before[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("backbone", "loss", "message"),
    [
        (FakeTokens(), InfoNCE(), "InfoNCE compares one vector a side.*MaxSimInfoNCE"),
        (FakeBackbone(), MaxSimInfoNCE(), "MaxSimInfoNCE compares one vector a token.*LateInteraction"),
    ],
)
def test_a_loss_for_other_vectors_is_refused_at_start(backbone, loss, message):
    with pytest.raises(ConfigError, match=message):
        EmbedderModule(backbone, loss, functools.partial(torch.optim.AdamW, lr=1e-2), seed=0)
