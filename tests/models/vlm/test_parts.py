import pytest
import torch
from plain_vlm import FAMILIES, MIXTURES
from torch import nn

from embedrl.errors import ConfigError
from embedrl.models.lora import LoRAOptions, add_lora
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.vlm.families import family_of
from embedrl.models.vlm.parts import linear_layers
from embedrl.models.vlm.tiny.build import build_config, build_model


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
        with pytest.raises(ConfigError, match=r"the experts of \w+Model.*gate_up_proj.*language-attention"):
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
