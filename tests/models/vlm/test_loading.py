import json
import shutil

import pytest
import torch
from plain_vlm import CHATS, QUICK
from safetensors.torch import load_file, save_file

from embedrl.errors import CheckpointError
from embedrl.models.lora import LoRAOptions
from embedrl.models.vlm.backbone import VLMBackbone
from embedrl.models.vlm.loading import load_config, load_processor
from embedrl.models.vlm.tiny import gemma, patch_grids, recipe
from embedrl.models.vlm.tiny.build import build_processor, write


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write(QUICK, tmp_path_factory.mktemp("vlm"), seed=1)


@pytest.fixture
def folder(base, tmp_path):
    return shutil.copytree(base, tmp_path / "copy")


def edit(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


NORM = "model.norm.weight"  # as the released checkpoints call it
BROKEN = {
    "no such folder": (shutil.rmtree, "copy: no such folder"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"cannot read the weights \(.*model.safetensors"),
    "no config": (lambda f: (f / "config.json").unlink(), r"cannot read config.json"),
    "text model": (
        lambda f: edit(f / "config.json", model_type="llama"),
        "'llama', no vision-language model of transf",
    ),
    "unknown": (lambda f: edit(f / "config.json", model_type="newest_vl"), "'newest_vl', no vision-language model"),
    "remote code": (
        lambda f: edit(f / "config.json", model_type="newest_vl", auto_map={"AutoModel": "x.Y"}),
        "'newest_vl' brings code of its own, which is never run",
    ),
    "cross-attention": (
        lambda f: edit(f / "config.json", model_type="mllama"),
        "'mllama' cannot be used: it reads pictures beside the text",
    ),
    "no template": (
        lambda f: (f / "chat_template.jinja").unlink(),
        "the processor has no chat template: write one to chat_template.jinja",
    ),
    "tokenizer alone": (
        lambda f: [x.unlink() for x in f.glob("*process*.json")],
        "alone, no processor of pictures and texts|cannot read the processor",
    ),
    "another processor": (
        lambda f: build_processor("mistral3").save_pretrained(f),
        r"reads pictures at token \d+, but its PixtralProcessor marks them by token \d+",
    ),
    "missing": (lambda f: weights(f, lambda t: t.pop(NORM)), "missing keys.*norm.weight"),
    "left over": (lambda f: weights(f, lambda t: t.update(stranger=torch.ones(1))), "unexpected keys.*stranger"),
    "shape": (lambda f: weights(f, lambda t: t.update({NORM: torch.ones(3)})), "mismatched keys.*norm.weight"),
    "emb": (lambda f: edit(f / "config.json", emb_token_ids=[7]), "emb_token_ids is .7., but the tokenizer's <emb>"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_checkpoints_are_named_in_one_line(folder, case):
    breaks, message = BROKEN[case]
    breaks(folder)
    with pytest.raises(CheckpointError, match=message) as error:
        VLMBackbone(str(folder)).build()
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(folder))


def test_a_family_with_a_template_needs_none_of_the_checkpoint(tmp_path):
    write("paligemma", tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    assert load_processor(str(tmp_path)).chat_template == load_processor("embedrl:tiny/paligemma").chat_template


def test_tiny_models_that_do_not_exist_are_named():
    with pytest.raises(CheckpointError, match=r"embedrl:tiny/nothing does not exist: choose one of .*gemma3, "):
        VLMBackbone("embedrl:tiny/nothing").build()
    with pytest.raises(CheckpointError, match="embedrl:world is no shipped checkpoint"):
        VLMBackbone("embedrl:world").build()


@torch.no_grad()
@pytest.mark.parametrize("name", [QUICK, pytest.param("gemma4", marks=pytest.mark.slow)])
def test_a_full_vocabulary_grows_by_the_new_token(name, tmp_path, monkeypatch):
    for module in (patch_grids, gemma, recipe):
        monkeypatch.setattr(module, "vocabulary_size", len)
    write(name, tmp_path / "base")
    backbone = VLMBackbone(str(tmp_path / "base"))
    backbone.build()
    backbone.eval()
    new = backbone.emb_token_id
    table = backbone.network.get_input_embeddings().weight
    assert len(table) == new + 1
    torch.testing.assert_close(table[new], table[:new].mean(0))
    expected = backbone(backbone.preprocessor()(CHATS))
    backbone.export(tmp_path / "out")
    again = VLMBackbone(str(tmp_path / "out"))
    again.build()
    again.eval()
    torch.testing.assert_close(again(again.preprocessor()(CHATS)), expected, atol=1e-6, rtol=0)


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("name", [QUICK, "gemma4", "mistral3"])
def test_an_adapter_brings_the_new_token_to_a_base_without_it(name, tmp_path, monkeypatch):
    for module in (patch_grids, gemma, recipe):
        monkeypatch.setattr(module, "vocabulary_size", len)
    write(name, tmp_path / "base")
    backbone = VLMBackbone(str(tmp_path / "base"), lora=LoRAOptions(r=2, dropout=0.0))
    backbone.build()
    backbone.eval()
    assert backbone.emb_new
    torch.manual_seed(0)
    for n, parameter in backbone.named_parameters():
        if "lora_B" in n:
            torch.nn.init.normal_(parameter, std=0.02)
    expected = backbone(backbone.preprocessor()(CHATS))
    backbone.export(tmp_path / "adapter", merge=False)
    adapted = VLMBackbone(str(tmp_path / "adapter"), lora=LoRAOptions(r=2, dropout=0.0))
    adapted.build()
    adapted.eval()
    assert not adapted.emb_added, "the row comes with the adapter"
    torch.testing.assert_close(adapted(adapted.preprocessor()(CHATS)), expected, atol=1e-5, rtol=0)
    adapted.export(tmp_path / "second", merge=False)
    adapted.export(tmp_path / "merged")
    for folder in ("second", "merged"):
        again = VLMBackbone(str(tmp_path / folder))
        again.build()
        torch.testing.assert_close(again.eval()(again.preprocessor()(CHATS)), expected, atol=1e-5, rtol=0)


def test_on_meta_it_has_the_names_and_shapes_of_the_built_one(base):
    built, empty = VLMBackbone(str(base)), VLMBackbone(str(base))
    built.build()
    empty.build_on_meta()
    described = [
        {n: (p.shape, p.dtype, p.requires_grad) for n, p in model.named_parameters()} for model in (built, empty)
    ]
    assert described[0] == described[1]
    assert all(p.is_meta for p in empty.parameters())


def test_a_relative_path_is_read_where_it_lies_now(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("copy").model_type == QUICK
    monkeypatch.chdir(write("gemma3", tmp_path / "other" / "copy").parent)
    assert load_config("copy").model_type == "gemma3"
    edit(tmp_path / "copy/config.json", emb_token_ids=[7])
    monkeypatch.chdir(tmp_path)
    assert load_config("copy").emb_token_ids == [7]
