import copy

import peft
import pytest
import torch
from fake_backbone import FakeBackbone, contrastive_batch
from torch import nn

from embedrl.losses.contrastive import batch_labels
from embedrl.losses.info_nce import InfoNCE
from embedrl.training.gradient_cache import GradientCache

CPU = torch.device("cpu")


class Transformer(nn.Module):
    """Two small transformer layers with dropout under LoRA with dropout."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.2, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.embed = nn.Linear(8, 16)

    def forward(self, x):
        return nn.functional.normalize(self.layers(self.embed(x)).mean(1), dim=-1)


def lora_transformer(dtype):
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules=["linear1", "linear2"], lora_dropout=0.3, init_lora_weights=False)
    return peft.get_peft_model(Transformer(), config).to(dtype).train()


def encode_with(model):
    return lambda inputs: model(inputs["x"])


def batches(sizes, dtype, seed=1):
    g = torch.Generator().manual_seed(seed)
    # Every micro-batch has its own sequence length, so nothing could be sliced from one big tensor.
    return [{"x": torch.randn(size, 3 + i, 8, generator=g).to(dtype)} for i, size in enumerate(sizes)]


def info_nce(vectors, pairs):
    queries, targets, negatives = vectors.split([pairs, pairs, len(vectors) - 2 * pairs])
    sides = {"q": queries, "t": targets, "n": negatives}
    names = ([f"{kind}{i}" for i in range(len(rows))] for kind, rows in sides.items())
    labels = batch_labels(*names, [len(negatives)])
    return InfoNCE(0.05)(queries, targets, negatives, labels)[0]


def cached_gradients(model, micro_batches, pairs, autocast=False, **options):
    torch.manual_seed(5)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        cache = GradientCache(encode_with(model), micro_batches, CPU, **options)
        vectors = cache.forward()
        loss = info_nce(vectors, pairs)
    loss.backward()
    cache.backward(vectors.grad)
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def one_pass_gradients(model, micro_batches, pairs, autocast=False):
    """The whole batch in one graph, in the order in which the cache draws its dropout."""
    torch.manual_seed(5)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = info_nce(torch.cat([encode_with(model)(inputs) for inputs in micro_batches]), pairs)
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def relative(a, b):
    return max(((a[n] - b[n]).norm() / b[n].norm()).item() for n in b)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("sizes", [(4, 4, 4), (5, 1, 3, 4), (12,)])
@pytest.mark.parametrize("recompute", [True, False])
def test_equals_one_pass_with_dropout_and_lora(dtype, tolerance, sizes, recompute):
    model = lora_transformer(dtype)
    reference = copy.deepcopy(model)
    inputs = batches(sizes, dtype)
    loss, gradients = cached_gradients(model, inputs, pairs=5, recompute=recompute)
    expected_loss, expected = one_pass_gradients(reference, inputs, pairs=5)
    torch.testing.assert_close(loss, expected_loss, rtol=tolerance, atol=0)
    assert gradients.keys() == expected.keys()
    assert all("lora" in name for name in gradients)
    assert relative(gradients, expected) < tolerance


def test_equals_a_batch_that_was_never_cut():
    torch.manual_seed(0)
    model = Transformer().double().eval()
    whole = torch.randn(12, 4, 8, dtype=torch.float64)
    _, gradients = cached_gradients(copy.deepcopy(model), [{"x": part} for part in whole.split(5)], pairs=6)
    _, expected = one_pass_gradients(model, [{"x": whole}], pairs=6)
    assert relative(gradients, expected) < 1e-10


def test_dropout_of_the_second_pass_matters():
    """The comparison above would notice another dropout mask."""
    model = lora_transformer(torch.float64)
    inputs = batches((4, 4, 4), torch.float64)
    _, right = cached_gradients(copy.deepcopy(model), inputs, pairs=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embedrl.training.gradient_cache._set_random_state", lambda *_: None)
        _, wrong = cached_gradients(model, inputs, pairs=5)
    assert relative(wrong, right) > 1e-2


def test_autocast_covers_both_passes():
    model = lora_transformer(torch.float32)
    inputs = batches((4, 4, 4), torch.float32)
    seen = []
    model.register_forward_hook(lambda *_: seen.append((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled())))
    loss, gradients = cached_gradients(model, inputs, pairs=5, autocast=True)
    assert seen == [(True, False)] * 3 + [(True, True)] * 3
    model.zero_grad()
    expected_loss, expected = one_pass_gradients(model, inputs, pairs=5, autocast=True)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=0)
    assert relative(gradients, expected) < 0.02  # bfloat16


def test_autocast_does_not_reuse_weights_cast_without_a_graph():
    model = lora_transformer(torch.float32)
    inputs = batches((4, 4, 4), torch.float32)
    torch.manual_seed(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # one context around both passes
        cache = GradientCache(encode_with(model), inputs, CPU)
        vectors = cache.forward()
        info_nce(vectors, 5).backward()
        cache.backward(vectors.grad)
    inside = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    _, outside = cached_gradients(model, inputs, pairs=5, autocast=True)
    assert relative(inside, outside) < 0.02  # bfloat16


def test_a_single_micro_batch_is_encoded_once():
    backbone = FakeBackbone()
    backbone.build()
    cache = GradientCache(backbone, contrastive_batch(0, micro_batch_size=99).micro_batches, CPU)
    vectors = cache.forward()
    cache.backward(torch.ones_like(vectors))
    assert backbone.calls == 1


@pytest.mark.parametrize("count", [1, 3])
def test_extra_calls_for_other_ranks_change_nothing(count):
    inputs = batches((4, 4, 4)[:count], torch.float64)
    pairs = 2 * count - 1
    model = lora_transformer(torch.float64)
    _, expected = one_pass_gradients(copy.deepcopy(model), inputs, pairs)
    calls, outputs = [], []
    model.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    torch.manual_seed(5)
    cache = GradientCache(encode_with(model), inputs, CPU, calls=5)
    vectors = cache.forward()
    info_nce(vectors, pairs).backward()
    cache.backward(vectors.grad, before_last=lambda output: outputs.append(output.item()) or output)
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert calls == [False] * 5 + [True] * 5
    assert outputs == [0.0]
    assert relative(gradients, expected) < 1e-10


def test_leaves_the_random_state_where_the_first_pass_left_it():
    model = lora_transformer(torch.float32)
    cache = GradientCache(encode_with(model), batches((4, 4), torch.float32), CPU)
    vectors = cache.forward()
    before = torch.get_rng_state()
    cache.backward(torch.ones_like(vectors))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
def test_equals_one_pass_on_a_gpu():
    device = torch.device("cuda:0")
    model = lora_transformer(torch.float32).to(device)
    reference = copy.deepcopy(model)
    inputs = [{"x": part["x"].to(device)} for part in batches((4, 4, 4), torch.float32)]
    torch.manual_seed(5)
    cache = GradientCache(encode_with(model), inputs, device)
    vectors = cache.forward()
    (vectors @ vectors.T).exp().sum().backward()
    cache.backward(vectors.grad)
    torch.manual_seed(5)
    vectors = torch.cat([encode_with(reference)(part) for part in inputs])
    (vectors @ vectors.T).exp().sum().backward()
    pairs = zip(model.parameters(), reference.parameters(), strict=True)
    assert all(torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-5) for a, b in pairs if a.requires_grad)
