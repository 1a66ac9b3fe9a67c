"""Checkpoints as they are published, against a script that knows transformers and peft alone."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import qwen_helpers
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from qwen_helpers import EMB, picture, text, user
from real_checkpoints import LAYOUTS, write
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from embedrl.errors import CheckpointError
from embedrl.models.lora import LoRAOptions
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner

SCRIPT = Path(qwen_helpers.__file__).with_name("plain_embed.py")
NORM = "model.language_model.norm.weight"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The checkpoints, by name."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: write(root / str(i), layout, seed=i) for i, (name, layout) in enumerate(LAYOUTS.items())}


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """The content of three chats; pictures as files."""
    root = tmp_path_factory.mktemp("pictures")
    for i in range(3):
        picture(i, (80 + 40 * i, 96)).save(root / f"{i}.png")

    def shown(i):
        return {"type": "image", "path": str(root / f"{i}.png")}

    return [
        [text("a red star left of the ring")],
        [shown(0), text("the blue ring\nSummarize the above content in one word:")],
        [shown(1), text("<thinking>the star"), shown(2), text("</thinking><answer>red</answer>")],
    ]


def plain(monkeypatch, tmp_path, contents, folder, *adapter):
    """Vectors by the script."""
    assert "embedrl" not in SCRIPT.read_text()
    (tmp_path / "chats.json").write_text(json.dumps(contents))
    out = tmp_path / "vectors.safetensors"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, (folder, tmp_path / "chats.json", out, *adapter))])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    return load_file(out)["vectors"]


@torch.no_grad()
def ours(contents, folder, **options):
    """Vectors by the backbone, all chats in one micro-batch."""
    backbone = QwenVLBackbone(str(folder), **options)
    backbone.build()
    backbone.eval()
    opened = [
        [{"type": "image", "image": Image.open(part["path"])} if part["type"] == "image" else part for part in content]
        for content in contents
    ]
    return backbone(backbone.preprocessor()([[user(*content), EMB] for content in opened])), backbone


@pytest.mark.parametrize("name", LAYOUTS)
def test_vectors_equal_those_of_a_plain_script(name, written, contents, tmp_path, monkeypatch):
    folder, layout = written[name], LAYOUTS[name]
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert ("lm_head.weight" in json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]) != (
        layout.tied
    )
    found, backbone = ours(contents, folder)
    torch.testing.assert_close(found, plain(monkeypatch, tmp_path, contents, folder), atol=1e-5, rtol=0)
    assert (found @ found.T - torch.eye(3)).max() < 0.999
    config = json.loads((folder / "config.json").read_text())
    rows = backbone.network.get_input_embeddings().weight.shape[0]
    assert rows == config["text_config"]["vocab_size"] + (0 if layout.spare else 1)
    assert backbone.network.get_output_embeddings().weight.shape[0] == rows
    if layout.emb:
        assert [backbone.emb_token_id] == config["emb_token_ids"]


def test_a_reasoner_writes_from_a_grown_untied_checkpoint(written):
    reasoner = QwenVLReasoner(str(written["untied, must grow"]))
    reasoner.build()
    prompts = reasoner.preprocessor().prompts([[user(text("a blue ring"))]])
    assert len(reasoner.eval().generate(prompts, max_new_tokens=4)) == 1


def adapter_of(base, folder, **options):
    """An adapter as peft itself writes it, its weights not zero; None for a base keeps what it would be."""
    network = AutoModelForImageTextToText.from_pretrained(base)
    targets = ["q_proj", "v_proj", "down_proj"]
    adapted = get_peft_model(network, LoraConfig(r=3, lora_alpha=5, target_modules=targets, **options))
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}], ids=["LoRA", "rank-stabilised"])
def test_an_adapter_counts_as_its_base_with_the_adapter_merged(name, options, written, contents, tmp_path, monkeypatch):
    adapter = adapter_of(written[name], tmp_path / "adapter", **options)
    found, _ = ours(contents, adapter)
    expected = plain(monkeypatch, tmp_path, contents, written[name], adapter)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - ours(contents, written[name])[0]).abs().max() > 1e-3


def test_an_exported_adapter_loads_again_also_on_top_of_another(written, contents, tmp_path):
    first = adapter_of(written["untied, must grow"], tmp_path / "first")
    before, backbone = ours(contents, first, lora=LoRAOptions(r=2, dropout=0.0))
    torch.testing.assert_close(before, ours(contents, first)[0], atol=1e-5, rtol=0)
    for name, parameter in backbone.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    chats = [[user(*contents[0]), EMB]]
    with torch.no_grad():
        trained = backbone(backbone.preprocessor()(chats))
    backbone.export(tmp_path / "second", merge=False)
    again, _ = ours(contents[:1], tmp_path / "second")
    torch.testing.assert_close(again, trained, atol=1e-5, rtol=0)
    assert (trained - before[:1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_exported_adapter_is_whole_in_plain_peft(name, written, contents, tmp_path):
    _, backbone = ours(contents, written[name], lora=LoRAOptions(r=2, dropout=0.0))
    torch.manual_seed(1)
    for parameter_name, parameter in backbone.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.3)
    inputs = backbone.preprocessor()([[user(text("a red star")), EMB], [user(text("the blue ring")), EMB]])
    backbone.export(tmp_path / "adapter", merge=False)
    base = AutoModelForImageTextToText.from_pretrained(written[name])
    words = len(AutoProcessor.from_pretrained(tmp_path / "adapter").tokenizer)
    if words > base.get_input_embeddings().num_embeddings:
        base.resize_token_embeddings(words)
    plain_peft = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        hidden = plain_peft.get_base_model().model(**inputs).last_hidden_state
        found = torch.nn.functional.normalize(hidden[inputs["input_ids"] == backbone.emb_token_id], dim=-1)
        torch.testing.assert_close(found, backbone(inputs), atol=1e-6, rtol=0)
        # The LM head's row as well, where it is not the embedding's.
        torch.testing.assert_close(plain_peft(**inputs).logits, backbone.network(**inputs).logits, atol=1e-5, rtol=0)
    row = set() if LAYOUTS[name].emb else {"trainable_tokens_delta"}
    saved = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert {key.rpartition(".")[2] for key in saved} == {"weight"} | row
    again = QwenVLBackbone(str(tmp_path / "adapter"))
    assert again.processor
    assert not again.emb_added, "the row comes with the adapter, or the base has it"
    again.build_on_meta()
    built = QwenVLBackbone(str(tmp_path / "adapter"))
    built.build()
    assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in built.named_parameters()}
    with torch.no_grad():
        torch.testing.assert_close(built.eval()(inputs), backbone(inputs), atol=5e-6, rtol=0)


def test_an_adapter_of_a_reasoner_is_lora_alone(written, tmp_path):
    reasoner = QwenVLReasoner(str(written["untied, must grow"]), lora=LoRAOptions(r=2))
    reasoner.build()
    reasoner.export(tmp_path / "adapter", merge=False)
    saved = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert {key.split(".")[-2] for key in saved} == {"lora_A", "lora_B"}
    again = QwenVLReasoner(str(tmp_path / "adapter"))
    again.build()
    torch.testing.assert_close(
        again.network.state_dict()["lm_head.weight"], reasoner.network.base_model.model.lm_head.weight
    )


def edited(folder, out, change):
    """A copy of a sharded checkpoint, or of an adapter, with its tensors changed."""
    out.mkdir()
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    for file in out.glob("*.safetensors"):
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})
    return out


def drop(name):
    return lambda tensors: tensors.pop(name, None)


def misshape(name):
    return lambda tensors: tensors.update({name: torch.ones(2, 2)}) if name in tensors else None


LORA = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(LORA), rf"missing keys in the weights: {LORA}"),
        (lambda tensors: tensors.update(stranger=torch.ones(1)), r"unexpected keys in the weights: stranger"),
        (misshape(LORA), rf"mismatched keys in the weights: {LORA}"),
    ],
    ids=["missing", "unexpected", "mismatched"],
)
def test_an_adapter_that_does_not_fit_is_refused_by_name(change, message, written, tmp_path):
    adapter = adapter_of(written["tied, room to spare"], tmp_path / "adapter")
    with pytest.raises(CheckpointError, match=message):
        QwenVLBackbone(str(edited(adapter, tmp_path / "edited", change))).build()


def test_an_adapter_of_another_base_is_refused(written, tmp_path):
    adapter = adapter_of(written["tied, room to spare"], tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())

    def based_on(base):
        (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))
        QwenVLBackbone(str(adapter)).build()

    with pytest.raises(CheckpointError, match=r"(missing|unexpected|mismatched) keys"):
        based_on(str(written["untied, must grow"]))
    with pytest.raises(CheckpointError, match="base_model_name_or_path is missing"):
        based_on(None)
    with pytest.raises(CheckpointError, match="no such folder"):
        based_on("/no/where")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"needs adapter_model\.safetensors"):
        based_on(str(written["tied, room to spare"]))


def test_an_adapter_trained_with_another_emb_token_is_refused(written, tmp_path):
    base = written["tied, room to spare"]
    adapter = adapter_of(base, tmp_path / "adapter")
    other = QwenVLBackbone(str(written["untied, must grow"]))
    other.processor.tokenizer.save_pretrained(adapter)
    with pytest.raises(CheckpointError, match=r"adapter's <emb> is \d+, its base would make it \d+"):
        QwenVLBackbone(str(adapter)).build()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("tied, room to spare", drop(NORM), rf"missing keys in the weights: {NORM}"),
        ("untied, must grow", drop("lm_head.weight"), "missing keys in the weights: lm_head.weight"),
        ("released Embedder", misshape(NORM), rf"mismatched keys in the weights: {NORM}"),
    ],
)
def test_a_sharded_checkpoint_that_does_not_fit_is_refused_by_name(name, change, message, written, tmp_path):
    folder = edited(written[name], tmp_path / "edited", change)
    with pytest.raises(CheckpointError, match=message):
        QwenVLBackbone(str(folder)).build()


def test_a_shard_that_is_gone_is_an_error(written, tmp_path):
    folder = edited(written["tied, room to spare"], tmp_path / "edited", lambda tensors: None)
    sorted(folder.glob("model-*.safetensors"))[0].unlink()
    with pytest.raises(CheckpointError, match="cannot read the weights"):
        QwenVLBackbone(str(folder)).build()
