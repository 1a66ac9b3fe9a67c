"""A frozen vision tower looks at a micro-batch once: the same bits, fewer looks; a trained one looks as ever."""

import pytest
import torch
from qwen_helpers import EMB, image, text, user, video, write_checkpoint

from embedrl.models.lora import LoRAOptions
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.vision_cache import cache_vision_features
from embedrl.training.gradient_cache import GradientCache

CHATS = [
    [user(image(1), text("a red star"))],
    [user(video(2), text("what moves ?"))],
    [user(image(3), video(4), image(5), text("both"))],
    [user(text("no picture"))],
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(write_checkpoint(tmp_path_factory.mktemp("looking")))


def built(checkpoint, **options):
    torch.manual_seed(0)
    backbone = QwenVLBackbone(checkpoint, **options)
    backbone.build()
    return backbone


def gradients(backbone, **options):
    """The gradients of two rows at a time, and how often the tower ran."""
    preprocess, looks = backbone.preprocessor(), []
    batches = [preprocess([[*chat, EMB] for chat in CHATS[i : i + 2]]) for i in (0, 2)]
    hook = backbone.core.visual.patch_embed.register_forward_hook(lambda *_: looks.append(1))
    cache = GradientCache(backbone.encode, batches, torch.device("cpu"), **options)
    torch.manual_seed(1)
    vectors = cache.forward()
    (vectors.cumsum(0) ** 2).sum().backward()
    cache.backward(vectors.grad)
    hook.remove()
    found = {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}
    backbone.zero_grad(set_to_none=True)
    return found, len(looks)


LORA = LoRAOptions(r=4, dropout=0.3)


@pytest.mark.parametrize(
    ("options", "looks"),
    [
        ({"lora": LORA}, 4),  # pictures and videos of each micro-batch
        ({"lora": LORA, "gradient_checkpointing": True}, 4),
        ({}, 4),
        ({"train_vision": True}, 8),
        ({"lora": LoRAOptions(r=4, dropout=0.3, scope="language+vision")}, 8),
    ],
)
def test_the_gradients_are_the_same_bits(checkpoint, options, looks):
    backbone = built(checkpoint, **options)
    expected, twice = gradients(backbone)
    found, seen = gradients(backbone, cache_vision_features=backbone.cache_vision_features)
    assert (twice, seen) == (8, looks)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


def test_the_tower_is_itself_again_after_an_error():
    tower = torch.nn.Linear(3, 4).requires_grad_(False)
    with pytest.raises(RuntimeError, match="shape"), cache_vision_features(tower, []):
        tower(torch.zeros(1, 7))
    assert "forward" not in vars(tower)
