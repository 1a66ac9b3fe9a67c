"""Operations counted without numbers, layer by layer, against torch's counter on whole, real, tiny models."""

import pytest
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from embedrl.models.lora import LoRAOptions
from embedrl.models.vlm.backbone import VLMBackbone
from embedrl.models.vlm.reasoner import VLMReasoner
from embedrl.planning.build import build_on_meta
from embedrl.planning.flops import Flops
from embedrl.planning.pictures import COLOUR, PictureReader

EMB = {"role": "assistant", "content": [{"type": "text", "text": "<emb>"}]}
NAMES = (
    *("idefics3", "gemma3", "gemma4", "glm4v", "internvl", "lfm2_vl"),
    *("llava_onevision", "mistral3", "qwen2_vl", "qwen2_5_vl", "qwen3_5", "minicpmv4_6", "molmo2", "paligemma"),
    *("ernie4_5_vl_moe", "qwen3_vl_moe"),
)


def chat(words):
    picture = {"type": "image", "image": Image.new("RGB", (96, 96), COLOUR)}
    return [{"role": "user", "content": [picture, {"type": "text", "text": " ".join(["star"] * words)}]}, EMB]


@pytest.mark.parametrize("name", [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])])
def test_a_row_of_any_family_has_the_operations_that_torch_counts(name):
    path, options = f"embedrl:tiny/{name}", {"train_vision": True}
    real = VLMBackbone(path, **options)
    real.build()
    read = real.preprocessor()
    # Linear attention works in blocks of 64 tokens.
    inputs = next(row for words in range(40, 200) if (row := read([chat(words)]))["input_ids"].shape[1] % 64 == 0)
    with FlopCounterMode(display=False) as counted:
        hidden = real.hidden_states(inputs)
        forward = counted.get_total_flops()
        hidden.sum().backward()
    planned, _ = build_on_meta(VLMBackbone(path, **options))
    picture = PictureReader(planned, 4).read("image", (96, 96))
    cost = Flops.of(planned).text(inputs["input_ids"].shape[1]) + picture.cost
    # Linear attention has a first block, which costs a little less; keys that layers share have one gradient more.
    near = {"qwen3_5": 1e-3, "gemma4": 2e-3}.get(name, 1e-6)
    assert cost.forward == pytest.approx(forward, rel=near)
    assert cost.forward + cost.backward == pytest.approx(counted.get_total_flops(), rel=near)
    plain = read([chat(40)])["input_ids"].shape[1] - read([_without(40)])["input_ids"].shape[1]
    assert picture.tokens == plain
    assert picture.tower == 0  # it is trained


def _without(words):
    user, emb = chat(words)
    return [{"role": "user", "content": user["content"][1:]}, emb]


def test_a_frozen_tower_takes_no_backward_pass_under_checkpointing():
    options = {"lora": LoRAOptions(r=2), "gradient_checkpointing": True}
    planned, _ = build_on_meta(VLMBackbone("embedrl:tiny/idefics3", **options))
    picture = PictureReader(planned, 4).read("image", (96, 96))
    assert picture.cost.backward == picture.cost.again == picture.cost.kept == 0
    assert 0 < picture.tower < picture.cost.forward  # the projector is no part of it


@pytest.mark.slow
def test_the_cache_of_a_hybrid_grows_by_its_attention_layers_alone():
    planned, _ = build_on_meta(VLMReasoner("embedrl:tiny/lfm2_vl"))
    config = planned.core.config.text_config
    full = config.layer_types.count("full_attention")
    head = config.hidden_size // config.num_attention_heads
    assert Flops.of(planned).cache == 2 * full * config.num_key_value_heads * head * 4
