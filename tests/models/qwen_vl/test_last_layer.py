import pytest
import torch
from qwen_helpers import EMB, image, text, user, video

from embedrl.models.lora import LoRAOptions
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.last_layer import ReadPlaces
from embedrl.models.vlm.base import VisionLanguageModel

CHATS = [
    [user(image(0), text("the red star")), EMB],
    [user(text("a text alone , rather longer than the others , to make them pad")), EMB],
    [user(video(1), text("what comes after ?")), EMB],
]


def built(path, **options):
    backbone = QwenVLBackbone(str(path), **options)
    backbone.build()
    return backbone.eval()


def in_blocks(backbone):
    """The chats' rows, each cut into a shared part and two texts of its own."""
    inputs = backbone.preprocessor()(CHATS)
    length = inputs["attention_mask"].sum(1, keepdim=True)
    steps = torch.arange(inputs["input_ids"].shape[1]).expand_as(inputs["input_ids"])
    segments = (1 + (steps >= length - 4).long() + (steps >= length - 2)) * inputs.pop("attention_mask")
    return inputs | {"segments": segments}


@pytest.mark.parametrize(
    ("rows", "width", "tokens"),
    [(3, 4, [2, 11, 4]), (3, 4, [1, 0, 10, 11, 8, 8]), (2, 3, [5]), (4, 2, [6, 7, 0])],
)
def test_tokens_are_sorted_into_rows_and_come_out_in_their_order(rows, width, tokens):
    values = torch.randn(rows, width, 5)
    places = ReadPlaces.of(torch.tensor(tokens), rows, width)
    picked = places.pick(values)
    assert picked.shape[1] == max(sum(t // width == row for t in tokens) for row in range(rows))
    assert torch.equal(picked.flatten(0, 1)[places.order], values.flatten(0, 1)[tokens])
    seen = places.mask(None, width).expand(rows, 1, -1, width).flatten(0, 2)[places.order]
    assert seen.sum(1).tolist() == [t % width + 1 for t in tokens]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("shape", ["right", "left", "blocks"])
def test_states_and_gradients_are_those_of_the_whole_layer(checkpoint, monkeypatch, attention, shape):
    monkeypatch.setattr("embedrl.models.qwen_vl.backbone.is_sparse", lambda inputs: False)
    lora = LoRAOptions(r=4, alpha=8)
    side = "left" if shape == "left" else "right"
    backbone = built(checkpoint, lora=lora, attn_implementation=attention, padding_side=side)
    for name, parameter in backbone.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    inputs = in_blocks(backbone) if shape == "blocks" else backbone.preprocessor()(CHATS)
    real = inputs.get("attention_mask", inputs.get("segments")).flatten().nonzero()[:, 0]
    tokens = real[torch.randperm(len(real), generator=torch.Generator().manual_seed(0))[:9]]
    results = []
    for read in (backbone.hidden_at, lambda *args: VisionLanguageModel.hidden_at(backbone, *args)):
        backbone.zero_grad()
        states = read(inputs, tokens)
        (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
        results.append((states, [p.grad.clone() for p in backbone.parameters() if p.grad is not None]))
    (ours, mine), (whole, theirs) = results
    torch.testing.assert_close(ours, whole, atol=1e-5, rtol=0)
    assert len(mine) == len(theirs) > 0
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_checkpointing_changes_nothing_and_is_left_on(checkpoint):
    inputs, gradients = None, []
    for checkpointing in (False, True):
        backbone = built(checkpoint, gradient_checkpointing=checkpointing).train()
        inputs = backbone.preprocessor()(CHATS)
        backbone(inputs).square().cumsum(1).sum().backward()
        gradients.append([p.grad for p in backbone.parameters() if p.grad is not None])
        layers = backbone.core.get_decoder().layers
        assert [layer.gradient_checkpointing for layer in layers] == [checkpointing] * len(layers)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_the_last_layer_computes_one_token_a_chat(checkpoint):
    backbone = built(checkpoint)
    rows = []
    layers = backbone.core.get_decoder().layers
    for layer in (layers[0], layers[-1]):
        layer.mlp.register_forward_hook(lambda module, args, out: rows.append(out.shape[1]))
    inputs = backbone.preprocessor()(CHATS)
    backbone(inputs)
    assert rows == [int(inputs["attention_mask"].sum()), len(CHATS)]
