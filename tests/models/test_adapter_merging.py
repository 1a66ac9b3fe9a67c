"""Merged adapters against peft's own merging on the real network."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from qwen_helpers import EMB, text, user
from safetensors.torch import load_file, save_file

from embedrl.errors import CheckpointError, ConfigError
from embedrl.models.lora import LoRAOptions
from embedrl.models.merging import merge_folders
from embedrl.models.qwen_vl.backbone import QwenVLBackbone

CHATS = [[user(text(words)), EMB] for words in ("a red star left of the ring", "blue")]
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(scope="module")
def adapters(checkpoint, tmp_path_factory):
    """Two adapters alike, `a` and `b`, and `c` of another rank, as `embedrl export --adapter true` writes them."""
    root = tmp_path_factory.mktemp("adapters")
    for name, rank in (("a", 4), ("b", 4), ("c", 2)):
        backbone = QwenVLBackbone(str(checkpoint), lora=LoRAOptions(r=rank, alpha=8, scope="language-attention"))
        backbone.build()
        torch.manual_seed(ord(name))
        for key, parameter in backbone.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.2)
        backbone.export(root / name, merge=False)
    return root


@torch.no_grad()
def vectors(folder):
    backbone = QwenVLBackbone(str(folder))
    backbone.build()
    return backbone.eval()(backbone.preprocessor()(CHATS))


@torch.no_grad()
def by_peft(checkpoint, folders, weights, **options):
    backbone = QwenVLBackbone(str(checkpoint))
    backbone.build()
    network = PeftModel.from_pretrained(backbone.network, folders[0], adapter_name="0")
    network.load_adapter(folders[1], adapter_name="1")
    network.add_weighted_adapter(["0", "1"], weights, "merged", **options)
    network.set_adapter("merged")
    return backbone.eval()(backbone.preprocessor()(CHATS))


@pytest.mark.parametrize(
    ("names", "method", "density"), [("ab", "linear", 0.2), ("ab", "ties", 0.5), ("ab", "svd", 0.2), ("ac", "svd", 0.2)]
)
def test_vectors_are_those_of_pefts_own_merge(checkpoint, adapters, tmp_path, names, method, density):
    folders, weights = [adapters / name for name in names], [0.7, 0.4]
    (tmp_path / "out").mkdir()
    merge_folders(folders, weights, tmp_path / "out", method, density=density)
    expected = by_peft(checkpoint, folders, weights, combination_type=method, density=density)
    found = vectors(tmp_path / "out")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert min((found - vectors(folder)).abs().max() for folder in folders) > 1e-3
    assert json.loads((tmp_path / "out" / CONFIG).read_text())["r"] == 4
    assert (tmp_path / "out/embedrl_config.json").is_file()


def test_rows_of_tokens_are_averaged_by_weight(adapters, tmp_path):
    row = "base_model.model.model.language_model.embed_tokens.token_adapter.trainable_tokens_delta"
    for number, name in enumerate("ab"):
        shutil.copytree(adapters / name, tmp_path / name)
        tensors = load_file(tmp_path / name / WEIGHTS)
        save_file(tensors | {row: torch.full((1, 8), 1.0 + number)}, tmp_path / name / WEIGHTS)
    (tmp_path / "out").mkdir()
    merge_folders([tmp_path / "a", tmp_path / "b"], [1.0, 3.0], tmp_path / "out")
    torch.testing.assert_close(load_file(tmp_path / "out" / WEIGHTS)[row], torch.full((1, 8), 1.75))


def edited(adapters, folder, how):
    shutil.copytree(adapters / "b", folder)
    config, tensors = json.loads((folder / CONFIG).read_text()), load_file(folder / WEIGHTS)
    name = sorted(key for key in tensors if "lora_A" in key)[0]
    if how == "shape":
        tensors[name] = tensors[name][:, :-1].contiguous()
    elif how == "layers":
        del tensors[name], tensors[name.replace("lora_A", "lora_B")]
    elif how == "half":
        del tensors[name]
    elif how == "convolution":
        tensors[name] = tensors[name][..., None, None].contiguous()
    elif how == "cut":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:90])
        return folder
    elif how == "whole":
        (folder / CONFIG).unlink()
    else:
        config |= how
        (folder / CONFIG).write_text(json.dumps(config))
    save_file(tensors, folder / WEIGHTS)
    return folder


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"r": 2}, r"its rank is 2, that of .*a is 4: --method svd merges unlike ranks"),
        ({"base_model_name_or_path": "Qwen/Other"}, r"an adapter of another base than .*a \(Qwen/Other, not"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path is missing"),
        ({"trainable_token_indices": [7]}, "brings rows of other tokens than"),
        ({"use_dora": True}, "an adapter with use_dora True, which cannot be merged with another"),
        ({"peft_type": "LOHA"}, "a LOHA adapter; only LoRA can be merged"),
        ("shape", r"outputs, in .*a \d+ and \d+: only adapters of one base can be merged"),
        ("layers", r"adapts other layers than .*a, such as .*_proj: only adapters of the same layers"),
        ("half", "belongs to no linear layer's update"),
        ("convolution", "belongs to no linear layer's update"),
        ("cut", r"cannot read the adapter .*needs adapter_model\.safetensors"),
        ("whole", r"a: a LoRA adapter; export it merged"),
    ],
    ids=str,
)
def test_refuses_what_does_not_fit(adapters, tmp_path, how, message):
    other = edited(adapters, tmp_path / "other", how)
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match=message) as caught:
        merge_folders([adapters / "a", other], [0.5, 0.5], tmp_path / "out")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "slerp"}, "--method slerp merges whole models: for adapters give linear, ties or svd"),
        ({"method": "ties", "base": "base"}, "--base .*base: adapters name their base themselves"),
        ({"method": "ties", "density": 0.0}, "--density is 0.0"),
    ],
)
def test_refuses_flags_that_do_not_fit(adapters, tmp_path, options, message):
    options |= {"base": tmp_path / "base"} if "base" in options else {}
    with pytest.raises(ConfigError, match=message):
        merge_folders([adapters / "a", adapters / "b"], [1.0, 1.0], out=tmp_path, **options)
