import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qwen_helpers import image, text, user, video
from transformers import AutoModelForImageTextToText, AutoProcessor

from embedrl.data.world import vocabulary
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.tiny import build_config, build_model, build_processor, build_tokenizer, world_words


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(world_words())


def write(folder, tokenizer, seed):
    build_processor(tokenizer).save_pretrained(folder)
    build_model(build_config(tokenizer), seed).save_pretrained(folder)
    return folder


def test_auto_classes_load_what_it_saves_and_give_the_same_logits(tmp_path, tokenizer):
    folder = write(tmp_path, tokenizer, seed=3)
    assert (folder / "model.safetensors").stat().st_size < 10e6
    assert (folder / "chat_template.jinja").exists()
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    again = tmp_path / "again"
    model.save_pretrained(again)
    processor.save_pretrained(again)
    chats = [[user(image(), text("what is red ?"))], [user(video(), text("when ?"))]]
    inputs = QwenVLBackbone(str(folder)).preprocessor().prompts(chats)
    with torch.no_grad():
        logits = model(**inputs).logits
        assert torch.equal(logits, AutoModelForImageTextToText.from_pretrained(again)(**inputs).logits)
    assert AutoProcessor.from_pretrained(again).tokenizer.get_vocab() == processor.tokenizer.get_vocab()


def test_the_seed_decides_the_weights_and_the_global_rng_is_left_alone(tmp_path, tokenizer):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    files = [write(tmp_path / str(i), tokenizer, s) / "model.safetensors" for i, s in enumerate((0, 0, 1))]
    assert torch.equal(torch.rand(1), expected)
    contents = [file.read_bytes() for file in files]
    assert contents[0] == contents[1] != contents[2]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_the_tokenizer(tokenizer, words):
    ids = tokenizer(words, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == words


@pytest.mark.parametrize("word", [*vocabulary.words(), *vocabulary.NUMBERS, "1000", "0"])
def test_every_word_of_the_world_is_one_token_with_and_without_its_space(tokenizer, word):
    ids = tokenizer([word, f" {word}"], add_special_tokens=False)["input_ids"]
    assert [len(i) for i in ids] == [1, 1]


@pytest.mark.parametrize(
    ("cue", "tokens"),
    [(' {"bbox_2d": [[20, 40, 320, 1000]]}', 9), (' {"key_frames": [1, 8]}', 5), ("<thinking></thinking>", 2)],
)
def test_cues_are_short(tokenizer, cue, tokens):
    assert len(tokenizer(cue, add_special_tokens=False)["input_ids"]) == tokens


def test_each_frame_has_its_own_timestamp(tokenizer):
    inputs = QwenVLBackbone("embedrl:tiny").preprocessor().prompts([[user(video(frames=3))]])
    tokens = tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
    assert [t for t in tokens if "seconds" in t] == ["<0.0 seconds>", "<0.5 seconds>", "<1.0 seconds>"]
    assert inputs["video_grid_thw"].tolist() == [[3, 4, 4]]
