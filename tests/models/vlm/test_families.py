import re
from pathlib import Path

import pytest
import torch
import yaml
from plain_vlm import FAMILIES, MIXTURES, families
from recipes import PARTS
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
)

from embedrl.errors import ConfigError
from embedrl.models.lora import LoRAOptions, add_lora
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.models.vlm.backbone import VLMBackbone
from embedrl.models.vlm.families import VLMFamily, family_of, linear_layers
from embedrl.models.vlm.loading import load_config
from embedrl.models.vlm.reasoner import VLMReasoner
from embedrl.models.vlm.tiny.build import build_config, build_model
from embedrl.rl.policy import Policy, PolicyOptions


def core(name):
    with torch.device("meta"):
        return build_model(build_config(name)).base_model


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in MIXTURES])
def test_every_linear_layer_is_in_one_part(name):
    model, family = core(name), family_of(name)
    scopes = ["language", "vision", *(["projector"] if name != "gemma3" else [])]  # its projector is no layer
    named = {scope: set(linear_layers(model, family, LoRAOptions(scope=scope))) for scope in scopes}
    every = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert set.union(*named.values()) == every
    assert sum(map(len, named.values())) == len(every)
    assert set(linear_layers(model, family, LoRAOptions(scope="all-linear"))) == every
    attention = set(linear_layers(model, family, LoRAOptions(scope="language-attention")))
    assert attention < named["language"]
    assert not [layer for layer in attention if "mlp" in layer or "feed_forward" in layer]
    # By what the layers see: the tower's pixels and patches, the projector both widths, the decoder its own.
    for part, width in (("vision", 48), ("language", 64)):
        inside = {layer for layer in named[part] if layer.endswith(("q_proj", "qkv", "q_proj.linear"))}
        assert inside
        assert {model.get_submodule(layer).in_features for layer in inside} == {width}, part


@pytest.mark.slow
def test_the_parts_of_a_qwen3_vl_are_those_of_its_own_package():
    backbone = QwenVLBackbone("embedrl:tiny")
    backbone.build_on_meta()
    for scope in ("language", "language-attention", "vision", "projector", "all-linear"):
        options = LoRAOptions(r=1, scope=scope)
        names = [f"model.{name}" for name in linear_layers(backbone.core, family_of("qwen3_vl"), options)]
        with torch.device("meta"):
            other = QwenVLBackbone("embedrl:tiny", lora=options)
            other.build_on_meta()
            ours = add_lora(backbone.network, options, names)
        adapted = [
            {name for name, p in model.named_parameters() if "lora_A" in name} for model in (other.network, ours)
        ]
        assert adapted[0] == adapted[1]
        backbone.net = ours.unload()


@pytest.mark.parametrize("name", MIXTURES)
def test_fused_experts_are_refused_by_name(name):
    model, family = core(name), family_of(name)
    for scope in ("language", "all-linear"):
        with pytest.raises(ConfigError, match=r"the experts of Qwen3\w+Model.*gate_up_proj.*language-attention"):
            linear_layers(model, family, LoRAOptions(scope=scope))
    attention = linear_layers(model, family, LoRAOptions(scope="language-attention"))
    assert {layer.split(".")[-2] for layer in attention} <= {"self_attn", "linear_attn"}
    assert attention


def test_a_scope_without_layers_is_an_error():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.language_model = nn.Sequential(nn.Linear(2, 2))

        def get_decoder(self):
            return self.language_model

        def get_encoder(self, modality):
            return self

    assert linear_layers(Bare(), family_of("?"), LoRAOptions()) == ["language_model.0"]
    for part in ("vision", "projector"):
        with pytest.raises(ConfigError, match=f"Bare has no linear layer in its part '{part}'"):
            linear_layers(Bare(), family_of("?"), LoRAOptions(scope=f"language+{part}"))


def test_the_documentation_tells_what_each_family_can_do():
    page = (Path(__file__).parents[3] / "docs/reference/families.md").read_text()
    rows = re.findall(r"^\|[^|]+\| `(\w+)` \| (.+) \| (.+) \| (yes|no) \| `embedrl:tiny/\1` \|$", page, re.MULTILINE)
    told = {name: (videos == "as videos", boxes, budget == "yes") for name, videos, boxes, budget in rows}
    words, plain = {"thousand": "0..1000", "unit": "0..1", "pixels": "pixels"}, VLMFamily.set_pixels
    known = {name: family_of(name) for name in FAMILIES}
    assert told == {
        name: (family.reads_video, words[family.boxes], type(family).set_pixels is not plain)
        for name, family in known.items()
    }


def test_the_documentation_tells_whose_rows_could_hold_several_texts():
    page = (Path(__file__).parents[3] / "docs/reference/families.md").read_text()
    told = dict(re.findall(r"^\| `(\w+)` \| (full .+) \|$", page, re.MULTILINE))
    words = {"linear_attention": "linear", "sliding_attention": "sliding windows", "conv": "convolutions"}
    assert set(told) == set(FAMILIES)
    for name, layers in told.items():
        kinds = set(getattr(load_config(f"embedrl:tiny/{name}").get_text_config(), "layer_types", None) or ())
        assert {kind for kind, word in words.items() if word in layers} == kinds - {"full_attention"}, name


def test_several_texts_in_a_row_are_refused_by_capability(caplog):
    assert QwenVLBackbone("embedrl:tiny").shares_prefix
    path = "embedrl:tiny/qwen2_vl"
    assert not VLMBackbone(path).shares_prefix
    reasoner = VLMReasoner(path)
    assert not reasoner.packs_replies
    assert not reasoner.takes_blocks
    Policy(reasoner, PolicyOptions(shared_prefix=False))
    assert not caplog.records
    Policy(reasoner, PolicyOptions(shared_prefix=True))
    assert "policy.shared_prefix: a VLMReasoner cannot keep replies in one row apart" in caplog.text


REAL = [path for path in PARTS if path.parent.name == "backbone" and "VLMBackbone" in path.read_text()]
TYPES = {
    "qwen3_5": "qwen3_5",
    "smolvlm": "idefics3",
    "internvl3_5": "internvl",
    "gemma4": "gemma4",
    "lfm2_vl": "lfm2_vl",
}


@pytest.mark.parametrize("part", [p for p in REAL if not p.stem.endswith("_tiny")], ids=lambda path: path.stem)
def test_a_real_recipe_fits_its_family(part):
    """Its options are understood by the family's processor, its scope by the architecture at its default size."""
    options = yaml.safe_load(part.read_text())["init_args"]
    kind = TYPES[next(name for name in TYPES if part.stem.startswith(name))]
    pixels = options["image_pixels"] and PixelBudget(**options["image_pixels"])
    settings = options["image_settings"]
    VLMBackbone(f"embedrl:tiny/{kind}", image_pixels=pixels, image_settings=settings).preprocessor()
    config = AutoConfig.for_model(kind, **({"vision_config": {}} if kind == "gemma4" else {}))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    names = linear_layers(model.base_model, family_of(kind), LoRAOptions(**options["lora"]))
    assert len(names) > 6 * 10
    assert family_of(kind).vision_tower(model.base_model) is not None


@families(default=())
def test_lora_trains_what_its_scope_names(name):
    language = "language-attention" if name in MIXTURES else "language"
    for scope in (language, "vision" if name == "gemma3" else "vision+projector"):
        backbone = VLMBackbone(f"embedrl:tiny/{name}", lora=LoRAOptions(r=2, scope=scope))
        backbone.build()
        trained = {n for n, p in backbone.named_parameters() if p.requires_grad}
        assert all(".lora_" in n for n in trained)
        decoder = {id(p) for p in backbone.core.get_decoder().parameters()}
        in_decoder = {n for n, p in backbone.named_parameters() if id(p) in decoder} & trained
        assert in_decoder == (trained if scope == language else set())
