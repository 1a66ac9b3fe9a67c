"""Checkpoints that are no two-tower models, or lie beside another one's processor: one line each."""

import json
import shutil

import pytest
from transformers import CLIPImageProcessor, CLIPProcessor, SiglipImageProcessor, SiglipProcessor

from embedrl.errors import CheckpointError
from embedrl.models.qwen_vl.tiny import build_tokenizer
from embedrl.models.two_towers import tiny
from embedrl.models.two_towers.loading import load_processor
from embedrl.models.vlm.tiny.build import build_config as vlm_config


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    place = tmp_path_factory.mktemp("towers")
    return {name: tiny.write(name, place / name) for name in ("clip", "siglip2")}


def of_unknown_family(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "nobody_knows"}))


def with_code(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "jina_clip", "auto_map": {"AutoModel": "m.M"}}))


def without_type(folder):
    (folder / "config.json").write_text("{}")


def of_a_writer(folder):
    vlm_config("internvl").save_pretrained(folder)


def without_processor(folder):
    for file in folder.glob("*processor*"):
        file.unlink()


def of_another_size(folder):
    size = {"height": 32, "width": 32}
    CLIPProcessor(
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size), tiny.build_processor("clip").tokenizer
    ).save_pretrained(folder)


def of_naflex(folder):
    tiny.build_processor("siglip2").save_pretrained(folder)


def of_fixed_size(folder):
    images = SiglipImageProcessor(size={"height": 48, "width": 48})
    SiglipProcessor(images, tiny.build_processor("siglip2").tokenizer).save_pretrained(folder)


def of_more_words(folder):
    words = [f"word{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(600)]
    tokenizer = build_tokenizer(words, ("<|startoftext|>", "<|endoftext|>"), pad_token="<|endoftext|>")
    CLIPProcessor(tiny.build_processor("clip").image_processor, tokenizer).save_pretrained(folder)


def of_other_weights(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("clip", of_unknown_family, "model_type 'nobody_knows' is of a family that transformers .* does not know"),
        ("clip", with_code, "'jina_clip' brings code of its own, which is never run, and transformers .* not know"),
        ("clip", without_type, "there is none, or it names no model_type"),
        ("clip", of_a_writer, r"InternVLModel \(internvl\) has no towers .* goes to embedrl\.VLMBackbone"),
        ("clip", without_processor, "cannot read the processor .Can't load image processor"),
        ("clip", of_another_size, r"makes pictures of 32 x 32 pixels, but the model \(clip\) reads 48 x 48"),
        ("clip", of_naflex, r"Siglip2ImageProcessor makes \w+, which the model \(clip\) does not read"),
        ("siglip2", of_fixed_size, r"makes no spatial_shapes, which the model \(siglip2\) reads"),
        ("clip", of_more_words, r"the tokenizer has \d+ tokens, but the text tower \(clip\) 1024"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(name, spoil, message, originals, tmp_path):
    folder = tmp_path / "spoilt"
    shutil.copytree(originals[name], folder)
    spoil(folder)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_processor(str(folder))
    assert "\n" not in str(raised.value)
    assert str(folder) in str(raised.value)


def test_weights_of_another_shape_are_named(originals, tmp_path):
    from embedrl.models.two_towers.backbone import TwoTowerBackbone

    folder = tmp_path / "spoilt"
    shutil.copytree(originals["clip"], folder)
    of_other_weights(folder)
    with pytest.raises(CheckpointError, match=r"missing keys in the weights: text_model\.encoder\.layers\.2"):
        TwoTowerBackbone(str(folder)).build()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("./nowhere", "no such folder"),
        ("embedrl:tiny/nobody", "no tiny two-tower model, choose one of clip, siglip, siglip2"),
        ("embedrl:world_base", "is no shipped checkpoint; give a folder with the checkpoint of a two-tower model"),
    ],
)
def test_a_path_without_a_model_is_one_line(path, message):
    with pytest.raises(CheckpointError, match=message):
        load_processor(path)
