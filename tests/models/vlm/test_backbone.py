import torch
from plain_vlm import CHATS, families, plain_vectors

from embedrl.models.vlm.backbone import VLMBackbone
from embedrl.models.vlm.tiny.build import write


def built(path, **options):
    backbone = VLMBackbone(str(path), **options)
    backbone.build()
    return backbone.eval()


@torch.no_grad()
def vectors(backbone, chats=CHATS):
    return backbone(backbone.preprocessor()(chats))


@families()
def test_vectors_equal_plain_transformers_alone_and_in_a_batch(name, tmp_path):
    write(name, tmp_path / "base", seed=1)
    backbone = built(tmp_path / "base")
    backbone.export(tmp_path / "out")
    expected = plain_vectors(tmp_path / "out", CHATS, backbone.differences.reads_video)
    alone = torch.cat([vectors(backbone, [chat]) for chat in CHATS])
    torch.testing.assert_close(alone, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(vectors(backbone), expected, atol=1e-5, rtol=0)
    order = [3, 1, 4, 0, 2]
    torch.testing.assert_close(
        vectors(built(tmp_path / "out", padding_side="left"), [CHATS[i] for i in order]),
        expected[order],
        atol=1e-5,
        rtol=0,
    )
    assert (expected @ expected.T - torch.eye(len(CHATS))).max() < 0.99


@families()
def test_a_frozen_tower_may_be_read_once(name):
    backbone = built(f"embedrl:tiny/{name}")
    inputs, seen = backbone.preprocessor()(CHATS), []
    assert not any(p.requires_grad for p in backbone.differences.vision_tower(backbone.core).parameters())
    with torch.no_grad(), backbone.cache_vision_features(seen):
        first = backbone(inputs)
    assert seen
    inputs["pixel_values"] = -inputs["pixel_values"]
    with torch.no_grad(), backbone.cache_vision_features(seen):
        assert torch.equal(backbone(inputs), first)
    with torch.no_grad():
        assert not torch.allclose(backbone(inputs), first, atol=1e-3)


@families(default=())
def test_half_precision_is_near(name):
    whole, half = built(f"embedrl:tiny/{name}"), built(f"embedrl:tiny/{name}", dtype="bfloat16")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    vectors_half = vectors(half)
    assert vectors_half.dtype == torch.float32
    assert ((vectors_half * vectors(whole)).sum(1) > 0.99).all()


@families(default=())
def test_gradient_checkpointing_leaves_gradients_alone(name):
    def gradients(flag):
        model = built(f"embedrl:tiny/{name}", train_vision=True, gradient_checkpointing=flag).train()
        (model(model.preprocessor()(CHATS[:4])) ** 3).sum().backward()
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    plain, checkpointed = gradients(False), gradients(True)
    assert any("vision" in n or "visual" in n for n in plain)
    assert plain.keys() == checkpointed.keys()
    for n, gradient in plain.items():
        torch.testing.assert_close(gradient, checkpointed[n], msg=n, atol=1e-6, rtol=1e-4)
