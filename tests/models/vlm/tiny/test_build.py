import pytest
import torch
from plain_vlm import FAMILIES, families
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from embedrl.models.vlm.families import family_of
from embedrl.models.vlm.tiny.build import build_config, build_model, build_processor, write

WORDS = '<|im_start|>user\nthe red star at 320 {"bbox_2d": [[20, 40, 60, 80]]}'


@pytest.mark.parametrize("name", FAMILIES)
def test_a_tiny_model_is_of_its_family(name):
    with torch.device("meta"):
        config = build_config(name)
        model = build_model(config)
    assert config.model_type == name
    assert type(model) is MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    assert sum(p.numel() for p in model.parameters()) < 500_000


@families()
def test_a_written_one_reads_and_computes_as_the_one_in_memory(name, tmp_path):
    write(name, tmp_path)
    processor, saved = build_processor(name), AutoProcessor.from_pretrained(tmp_path)
    assert type(saved) is type(processor)
    assert saved.tokenizer(WORDS)["input_ids"] == processor.tokenizer(WORDS)["input_ids"]
    chat = [{"role": role, "content": [{"type": "text", "text": role}]} for role in ("user", "assistant")]
    for prompt in (False, True):
        texts = {p.apply_chat_template(chat[: 2 - prompt], add_generation_prompt=prompt) for p in (processor, saved)}
        assert len(texts) == 1
    memory, disk = build_model(build_config(name)), AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert all(torch.equal(p, q) for p, q in zip(memory.parameters(), disk.parameters(), strict=True))
    assert all(p.any() for p in memory.parameters() if p.ndim == 2)


def test_what_has_no_class_of_its_own_goes_the_common_path():
    assert not family_of("llava_onevision").reads_video
    assert type(family_of("llava_onevision")) is type(family_of("a family of tomorrow"))
