"""Vectors of two towers equal those of plain transformers; what is trained, adapted and exported."""

import json

import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize
from transformers import (
    Aimv2Config,
    AlignConfig,
    AltCLIPConfig,
    AutoModel,
    AutoProcessor,
    ChineseCLIPConfig,
    CLIPImageProcessor,
    CLIPProcessor,
    MetaClip2Config,
    Tipsv2Config,
)

from embedrl.data.render import RenderOptions, render
from embedrl.errors import CheckpointError, ConfigError
from embedrl.models.exported import load_backbone
from embedrl.models.lora import LoRAOptions
from embedrl.models.qwen_vl.tiny import build_tokenizer, world_words
from embedrl.models.two_towers import tiny
from embedrl.models.two_towers.backbone import TwoTowerBackbone
from embedrl.models.two_towers.fusion import FusionWeights
from embedrl.models.two_towers.towers import frozen_parts, linear_layers
from embedrl.training.model_card import write_card
from embedrl.types import Side

TEXT = "the red star and a blue square"


class Picture:
    def __init__(self, seed, size):
        noise = torch.randint(
            0, 255, (*size[::-1], 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
        )
        self.image, self.name = Image.fromarray(noise.numpy()), str(seed)

    def load(self):
        return self.image


WIDE, TALL, SMALL = Picture(1, (60, 44)), Picture(2, (33, 90)), Picture(3, (20, 14))


def chat(text="", images=(), frames=()):
    return render(Side(text=text, images=tuple(images), frames=tuple(frames)), RenderOptions(tcot="none"))


def chats():
    return [
        chat(TEXT),
        chat(images=[WIDE]),
        chat("a green circle " * 60, images=[TALL, SMALL]),
        chat(frames=[WIDE, SMALL]),
        chat("a box", images=[WIDE]),
    ]


def built(path, **options):
    backbone = TwoTowerBackbone(str(path), **options)
    backbone.build()
    return backbone


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny checkpoints in the layout of the real ones, written when first asked for."""
    place = tmp_path_factory.mktemp("towers")
    return lambda name: place / name if (place / name).exists() else tiny.write(name, place / name)


@torch.no_grad()
def plain_vectors(folder, attention):
    """The vectors of `chats()` by transformers alone."""
    model = AutoModel.from_pretrained(folder, attn_implementation=attention).eval()
    processor = AutoProcessor.from_pretrained(folder)
    # A Siglip2Processor has a size of patches of its own, that of the published checkpoints.
    images = processor.image_processor
    patches = {name: getattr(images, name) for name in ("patch_size", "max_num_patches") if hasattr(images, name)}
    length = min(model.config.text_config.max_position_embeddings, processor.tokenizer.model_max_length)

    def text(words):
        options = {"padding": "max_length", "truncation": True, "max_length": length}
        inputs = processor(text=[words], return_tensors="pt", **options)
        return normalize(model.get_text_features(**inputs).pooler_output[0], dim=0)

    def image(picture):
        inputs = processor(images=[picture.load()], return_tensors="pt", **patches)
        return normalize(model.get_image_features(**inputs).pooler_output[0], dim=0)

    sums = [
        text(TEXT),
        image(WIDE),
        text(" ".join(["a green circle"] * 60)) + (image(TALL) + image(SMALL)) / 2,
        (image(WIDE) + image(SMALL)) / 2,
        text("a box") + image(WIDE),
    ]
    return normalize(torch.stack(sums), dim=1)


@torch.no_grad()
def vectors(backbone):
    return backbone.eval()(backbone.preprocessor()(chats()))


@torch.no_grad()
def check_exact(folder, attention="sdpa"):
    backbone = built(folder, attn_implementation=attention).eval()
    together, expected = vectors(backbone), plain_vectors(folder, attention)
    torch.testing.assert_close(together, expected, atol=1e-5, rtol=0)
    alone = torch.cat([backbone(backbone.preprocessor()([one])) for one in chats()])
    torch.testing.assert_close(alone, expected, atol=1e-5, rtol=0)
    return expected


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "siglip2" else [pytest.mark.slow]) for name in tiny.FAMILIES]
)
def test_vectors_equal_plain_transformers_alone_and_in_a_batch(name, folders):
    expected = check_exact(folders(name))
    assert (expected @ expected.T).fill_diagonal_(0).max() < 0.999  # the towers tell the sides apart
    torch.testing.assert_close(vectors(built(f"embedrl:tiny/{name}")), expected, atol=1e-5, rtol=0)


SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
FIXED = SHAPE | {"image_size": 48, "patch_size": 8}
BERT = SHAPE | {"type_vocab_size": 2, "max_position_embeddings": 66, "pad_token_id": 0}
OTHERS = {
    "metaclip_2": (MetaClip2Config, SHAPE | {"max_position_embeddings": 64, "projection_dim": 32}, FIXED),
    "altclip": (AltCLIPConfig, BERT | {"project_dim": 32}, FIXED),
    "chinese_clip": (ChineseCLIPConfig, BERT, FIXED),
    "align": (AlignConfig, BERT, {"image_size": 48, "width_coefficient": 0.1, "depth_coefficient": 0.1}),
    "aimv2": (Aimv2Config, SHAPE | {"max_position_embeddings": 64, "projection_dim": 32}, FIXED),
    "tipsv2": (Tipsv2Config, SHAPE | {"max_position_embeddings": 64}, FIXED),
}
"""Model type → configuration, arguments of the text tower and of the image tower."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHERS)
def test_other_families_of_transformers_go_the_same_way(kind, tmp_path):
    roles = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    tokenizer = build_tokenizer(world_words(), tuple(roles.values()), **roles | {"model_max_length": 64})
    ends = {f"{role}_id": getattr(tokenizer, f"{role}_id") for role in roles}
    cls, text, vision = OTHERS[kind]
    config = cls(text_config=ends | text | {"vocab_size": len(tokenizer) + 9}, vision_config=vision, projection_dim=32)
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    square = {"height": 48, "width": 48}
    images = CLIPImageProcessor(size={"shortest_edge": 48}, crop_size=square, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    CLIPProcessor(images, tokenizer).save_pretrained(tmp_path)
    attention = "eager" if kind in ("align", "aimv2") else "sdpa"
    if attention == "eager":
        with pytest.raises(ConfigError, match=r"attn_implementation: .* set it to eager"):
            built(tmp_path)
    check_exact(tmp_path, attention)
    for scope in ("language", "projector"):
        lora = LoRAOptions(r=2, alpha=4, scope=scope)
        if kind == "tipsv2" and scope == "projector":
            with pytest.raises(ConfigError, match="Tipsv2Model has no linear layer in its part 'projector'"):
                built(tmp_path, trainable="lora", lora=lora)
        else:
            built(tmp_path, trainable="lora", lora=lora, attn_implementation=attention)


def test_a_fusion_by_weights_and_shorter_texts(folders):
    folder, weights = folders("clip"), FusionWeights(text=2.0, image=0.5, evidence=0.0, video=1.0)
    backbone = built(folder, fusion=weights, max_length=8)
    both, text, image = chat(TEXT, images=[WIDE]), chat(TEXT), chat(images=[WIDE])
    preprocessor = backbone.eval().preprocessor()
    inputs = preprocessor([both, text, image])
    assert inputs["text.input_ids"].shape == (2, 8)
    with torch.no_grad():
        fused, words, picture = backbone(inputs)
    torch.testing.assert_close(fused, normalize(2 * words + 0.5 * picture, dim=0), atol=1e-6, rtol=0)
    assert preprocessor.length(both) == 9 + 7


def test_what_is_trained_by_name(folders):
    full = built(folders("siglip2"))
    temperature = {"net.logit_scale", "net.logit_bias"}
    assert {n for n, p in full.named_parameters() if not p.requires_grad} == temperature
    heads = built(folders("siglip2"), trainable="projections")
    trained = {n.rpartition(".")[0] for n, p in heads.named_parameters() if p.requires_grad}
    assert "net.text_model.head" in trained
    assert all(".head" in name for name in trained)
    heads.train()
    assert heads.towers.vision_model.head.training
    assert not heads.towers.vision_model.encoder.training


def test_an_idle_tower_gets_a_zero_gradient(folders):
    backbone = built(folders("clip"))
    backbone(backbone.preprocessor()([chat(TEXT), chat("a box")]))[0, 0].backward()
    assert backbone.towers.text_projection.weight.grad.abs().sum() > 0
    assert backbone.towers.visual_projection.weight.grad.abs().sum() == 0


def test_a_frozen_tower_runs_once_for_each_micro_batch(folders):
    backbone = built(folders("clip"), trainable="projections")
    inputs, seen, runs = backbone.preprocessor()(chats()), [], []
    backbone.towers.vision_model.encoder.register_forward_hook(lambda *_: runs.append(1))
    with backbone.cache_vision_features(seen):
        first = backbone(inputs)
    with backbone.cache_vision_features(seen):
        again = backbone(inputs)
    assert len(runs) == 1
    torch.testing.assert_close(again, first, atol=0, rtol=0)


PLACES = {
    "language": {"text_model.encoder"},
    "language-attention": {"text_model.encoder"},
    "vision": {"vision_model.embeddings", "vision_model.encoder"},
    "projector": {"text_model.head", "vision_model.head"},
}


def test_lora_goes_where_its_scope_says():
    network = tiny.build_model(tiny.build_config("siglip2"))
    for scope in (*PLACES, "all-linear"):
        names = linear_layers(network, LoRAOptions(scope=scope))
        places = {".".join(name.split(".")[:2]) for name in names}
        assert places == PLACES.get(scope, PLACES["language"] | PLACES["vision"] | PLACES["projector"]), scope
        assert scope != "language-attention" or all("attn" in name for name in names)
    assert "vision_model.head.attention.out_proj" not in names  # torch's own attention does not call it


def test_an_export_and_an_adapter_give_the_same_vectors(folders, tmp_path):
    weights = FusionWeights(text=2.0, image=0.5, evidence=3.0, video=1.0)
    lora = LoRAOptions(r=2, alpha=4, dropout=0.0, scope="all-linear")
    options = {"fusion": weights, "image_settings": {"max_num_patches": 20}, "gradient_checkpointing": True}
    backbone = built(folders("siglip2"), trainable="lora", lora=lora, **options)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
    expected = vectors(backbone)
    assert (expected - vectors(built(folders("siglip2"), **options))).abs().max() > 1e-3
    for name, merge in (("merged", True), ("adapter", False)):
        backbone.export(tmp_path / name, merge=merge)
        again = load_backbone(str(tmp_path / name))
        assert isinstance(again, TwoTowerBackbone)
        assert again.weights == weights
        torch.testing.assert_close(vectors(again), expected, atol=1e-5, rtol=0)
    assert not (tmp_path / "adapter/model.safetensors").exists()
    write_card(tmp_path / "merged", backbone, "mine")
    card = (tmp_path / "merged/README.md").read_text()
    assert 'AutoModel.from_pretrained("mine")' in card
    assert '"max_length": 64' in card
    (tmp_path / "merged/embedrl_config.json").write_text(
        json.dumps({"format": 1, "model": "embedrl.TwoTowerBackbone", "options": {"fusion": {"txt": 1}}})
    )
    with pytest.raises(CheckpointError, match=r"embedrl_config\.json: broken fusion"):
        load_backbone(str(tmp_path / "merged"))


def test_the_meta_device_has_the_same_parameters(folders):
    meta = TwoTowerBackbone(str(folders("siglip2")), trainable="projections")
    meta.build_on_meta()
    real = built(folders("siglip2"), trainable="projections")
    shapes = [{n: (p.shape, p.requires_grad) for n, p in b.named_parameters()} for b in (meta, real)]
    assert shapes[0] == shapes[1]
    assert all(p.is_meta for p in meta.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainable": "lora"}, "backbone.lora goes with"),
        ({"lora": LoRAOptions()}, "backbone.lora goes with"),
        ({"max_length": 1}, "give at least 2 tokens"),
        ({"max_length": 999}, "max_length is 999, but the text tower of .* reads 77 tokens"),
        (
            {"image_settings": {"crop": 3}},
            r"image_settings\.crop: a CLIPImageProcessor has no such option, but crop_size",
        ),
    ],
)
def test_wrong_options_name_the_flag_and_the_cure(options, message, folders):
    with pytest.raises(ConfigError, match=message):
        built(folders("clip"), **options)


def test_a_scope_that_matches_nothing_is_an_error():
    network = tiny.build_model(tiny.build_config("clip"))
    network.text_projection = network.visual_projection = torch.nn.Identity()
    with pytest.raises(ConfigError, match="no linear layer in its part 'projector'"):
        linear_layers(network, LoRAOptions(scope="projector"))
    with pytest.raises(ConfigError, match="projections: a CLIPModel has no such layer"):
        frozen_parts(network, "projections")
