"""LoRA experts: the mixture, the balance loss and its gradient, and what is refused."""

import copy

import pytest
import torch
from loss_batches import distinct
from peft import LoraConfig, get_peft_model
from qwen_helpers import EMB, image, text, user
from torch import nn
from torch.nn import functional

from embedrl.errors import ConfigError
from embedrl.losses.info_nce import InfoNCE
from embedrl.models.experts import ExpertOptions, RoutedLinear, routed_layers
from embedrl.models.lora import LoRAOptions, add_lora
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.models.routing import Routing
from embedrl.models.two_towers.backbone import TwoTowerBackbone
from embedrl.training.gradient_cache import GradientCache

CPU = torch.device("cpu")
CHATS = [
    [user(image(0), text("one")), EMB],
    [user(text("two")), EMB],
    [user(image(1)), EMB],
    [user(text("three four five six seven")), EMB],
]


def drawn(model, seed=0):
    """The model with second factors that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2, generator=generator)
    return model


def expert_lora(**options):
    return LoRAOptions(r=2, alpha=4, dropout=0.0, experts=ExpertOptions(**options))


def qwen(lora, **options):
    torch.manual_seed(0)
    model = QwenVLBackbone("embedrl:tiny", lora=lora, **options)
    model.build()
    return drawn(model)


def test_the_mixture_is_that_of_separate_adapters():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5))
    routed = drawn(add_lora(copy.deepcopy(net), LoRAOptions(3, 7, 0.0, experts=ExpertOptions(4, 2)), ["0"]).double())
    layer = routed_layers(routed)[0]
    first, second = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    plain = get_peft_model(copy.deepcopy(net), LoraConfig(r=3, lora_alpha=7, target_modules=["0"])).double()
    experts = []
    for i in range(4):
        expert = copy.deepcopy(plain)
        own = expert.get_submodule("base_model.model.0")
        own.lora_A["default"].weight.data = first[3 * i : 3 * i + 3].data
        own.lora_B["default"].weight.data = second[:, 3 * i : 3 * i + 3].data
        experts.append(expert)
    x, base = torch.randn(2, 9, 6, dtype=torch.float64), net.double()
    chances = (x @ layer.lora_router["default"].weight.T).float().softmax(-1)
    expected = base(x)
    for row in range(2):
        for token in range(9):
            best = sorted(range(4), key=lambda e: -chances[row, token, e].item())[:2]
            total = sum(chances[row, token, e] for e in best)
            for e in best:
                update = experts[e](x[row, token]) - base(x[row, token])
                expected[row, token] += chances[row, token, e] / total * update
    torch.testing.assert_close(routed(x), expected, rtol=1e-6, atol=1e-6)


def test_shapes_are_known_without_weights():
    """`embedrl plan` runs models so."""
    with torch.device("meta"):
        model = add_lora(nn.Sequential(nn.Linear(6, 5)), expert_lora(), ["0"])
        assert model(torch.empty(2, 3, 6)).shape == (2, 3, 5)


def trained(model, x, y):
    """Output and weights after two steps."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        torch.manual_seed(3)  # dropout
        out = model(x)
        functional.mse_loss(out, y).backward()
        optimizer.step()
    return out.detach(), {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def test_one_expert_is_plain_lora():
    """As an option, which makes one; and as a layer of the mixture with one expert."""
    torch.manual_seed(0)
    net, x, y = nn.Sequential(nn.Linear(6, 5)), torch.randn(4, 6), torch.randn(4, 5)
    results = []
    for experts in (None, ExpertOptions(1, 1)):
        torch.manual_seed(1)
        model = add_lora(copy.deepcopy(net), LoRAOptions(3, 7, 0.4, experts=experts), ["0"])
        results.append(trained(model, x, y))
    config = LoraConfig(r=3, lora_alpha=7, lora_dropout=0.4, target_modules=["0"])
    config._register_custom_module(
        {nn.Linear: lambda *a, **k: RoutedLinear(*a, experts=1, top_k=1, routing=Routing(1, 0), **k)}
    )
    torch.manual_seed(1)
    results.append(trained(get_peft_model(copy.deepcopy(net), config), x, y))
    for out, weights in results[1:]:
        assert torch.equal(out, results[0][0])
        assert weights.keys() == results[0][1].keys()
        assert all(torch.equal(value, results[0][1][name]) for name, value in weights.items())
    assert not torch.equal(results[0][0], net(x))


def reference(model, inputs):
    """Gradients of InfoNCE and the balance loss in one pass, the latter from the routers' own outputs."""
    logits, hooks = [], []
    for layer in routed_layers(model):
        router = layer.lora_router["default"]
        hooks.append(router.register_forward_hook(lambda _, __, out: logits.append(out)))
    vectors = model(inputs)
    loss, _ = InfoNCE(0.1)(vectors[:2], vectors[2:], vectors[:0], distinct(2))
    tokens, balance = inputs["attention_mask"].bool(), 0.0
    for out in logits:
        # Rows of a side's tokens without their padding; a vision tower has none.
        chances = (out[tokens] if out.shape[:-1] == tokens.shape else out.flatten(0, -2)).softmax(-1)
        share = torch.zeros(4)
        for row in chances:
            for expert in row.topk(2).indices:
                share[expert] += 1 / (2 * len(chances))
        balance = balance + 4 * (share * chances.mean(0)).sum() / len(logits)
    (loss + 0.5 * balance).backward()
    for hook in hooks:
        hook.remove()
    return loss + 0.5 * balance, balance.detach()


@pytest.mark.parametrize(
    ("recompute", "checkpointing", "scope"),
    [
        (True, False, "language+vision"),
        pytest.param(False, True, "language", marks=pytest.mark.slow),
        pytest.param(True, True, "language", marks=pytest.mark.slow),
    ],
)
def test_balance_is_that_of_the_whole_batch_however_it_is_cut(recompute, checkpointing, scope):
    """Micro-batches of one, with a repetition at the end, as where another process has more; unlike padding."""
    lora = LoRAOptions(r=2, alpha=4, dropout=0.0, scope=scope, experts=ExpertOptions(balance=0.5))
    model, whole = (qwen(lora, gradient_checkpointing=flag) for flag in (checkpointing, False))
    expected, balance = reference(whole, whole.preprocessor()(CHATS))
    batches = [model.preprocessor()([chat]) for chat in CHATS]
    # Long padding that no token sees.
    batches[1] = (
        {name: functional.pad(value, (0, 5)) for name, value in batches[1].items()} if recompute else batches[1]
    )
    routing = model.routing
    cache = GradientCache(model, batches, CPU, 5, recompute, model.cache_vision_features, routing.uncounted)
    with routing.collecting():
        vectors = cache.forward()
    loss, _ = InfoNCE(0.1)(vectors[:2], vectors[2:], vectors[:0], distinct(2))
    extra, figures = routing.loss(CPU)
    assert figures["router/balance"].item() == pytest.approx(balance.item(), rel=1e-5)
    assert sum(figures[f"router/load/{i}"] for i in range(4)).item() == pytest.approx(1.0)
    torch.testing.assert_close(loss + extra, expected)
    (loss + extra).backward()
    routing.send_back(1.0)
    cache.backward(vectors.grad)
    gradients = dict(whole.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-3, atol=1e-5)
    assert any(p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "lora_router" in n)


def test_fingerprints_are_the_routers_chances_at_emb():
    model = qwen(expert_lora()).eval()
    preprocess, expected = model.preprocessor(), []
    with torch.no_grad(), model.routing.collecting():
        model(preprocess(CHATS))
    found = model.routing.fingerprints()
    for chat in CHATS:  # each alone
        inputs, logits = preprocess([chat]), []
        routers = [layer.lora_router["default"] for layer in routed_layers(model)]
        hooks = [router.register_forward_hook(lambda _, __, out, to=logits: to.append(out)) for router in routers]
        with torch.no_grad():
            model(inputs)
        for hook in hooks:
            hook.remove()
        [place] = (inputs["input_ids"][0] == model.emb_token_id).nonzero()[:, 0]
        expected.append(torch.stack([out[0, place].softmax(-1) for out in logits]).mean(0))
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExpertOptions(0, 1), "lora.experts.count is 0: give 1 or more, or experts: null"),
        (lambda: ExpertOptions(4, 5), "lora.experts.top_k is 5, but there are 4 experts"),
        (lambda: ExpertOptions(4, 0), "lora.experts.top_k is 0, but there are 4 experts"),
        (lambda: ExpertOptions(balance=-1.0), "lora.experts.balance is -1.0"),
        (lambda: QwenVLReasoner("embedrl:tiny", lora=expert_lora()).build(), "experts are for Embedders"),
        (lambda: qwen(expert_lora()).network.merge_and_unload(), "cannot be merged"),
    ],
)
def test_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_two_towers_have_experts_too(tmp_path):
    options = {"trainable": "lora", "lora": expert_lora()}
    torch.manual_seed(0)
    model = TwoTowerBackbone("embedrl:tiny/clip", **options)
    model.build()
    drawn(model).eval()
    inputs = model.preprocessor()(CHATS)
    with torch.no_grad(), model.routing.collecting():
        vectors = model(inputs)
    assert model.routing.fingerprints() is None  # no pooled token
    assert model.routing.loss(CPU)[0].item() >= 0.0099  # 0.01 where experts are used alike
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="cannot be merged"):
        model.export(tmp_path / "out")
    model.export(tmp_path / "out", merge=False)
    loaded = TwoTowerBackbone(str(tmp_path / "out"))
    loaded.build()
    with torch.no_grad():
        assert torch.equal(loaded.eval()(inputs), vectors)
