import re
from pathlib import Path

import pytest
import torch
import yaml
from plain_vlm import FAMILIES, MIXTURES, families
from recipes import PARTS
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
)

from embedrl.models.lora import LoRAOptions
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.models.vlm.backbone import VLMBackbone
from embedrl.models.vlm.families import family_of
from embedrl.models.vlm.family import VLMFamily
from embedrl.models.vlm.loading import load_config
from embedrl.models.vlm.parts import linear_layers
from embedrl.models.vlm.reasoner import VLMReasoner
from embedrl.rl.policy import Policy, PolicyOptions


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
