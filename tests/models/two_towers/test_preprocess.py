import pickle

import pytest
import torch
from PIL import Image

from embedrl.errors import DataError
from embedrl.models.two_towers import tiny
from embedrl.models.two_towers.preprocess import TwoTowerPreprocessor


def user(*parts):
    shown = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": p} for p in parts]
    return [{"role": "user", "content": shown}]


@pytest.fixture(scope="module")
def preprocessor():
    return TwoTowerPreprocessor(tiny.build_processor("clip"), 77)


@pytest.mark.parametrize("word", ["<|endoftext|>", "<|startoftext|>", "<|ENDOFTEXT|>"])
def test_special_tokens_that_a_text_spells_are_text(word, preprocessor):
    ids = preprocessor([user(f"a star {word} and more")])["text.input_ids"][0].tolist()
    begin, end = preprocessor.processor.tokenizer.convert_tokens_to_ids(["<|startoftext|>", "<|endoftext|>"])
    assert ids.count(begin) == 1
    text = ids[1 : ids.index(end)]
    assert set(ids[len(text) + 1 :]) == {end}
    assert "and more" in preprocessor.processor.tokenizer.decode(text)


def test_pickles_into_workers(preprocessor):
    again, chats = pickle.loads(pickle.dumps(preprocessor)), [user("a star", Image.new("RGB", (40, 30))), user("two")]
    first, second = preprocessor(chats), again(chats)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_thin_picture_is_refused_and_an_empty_chat(preprocessor):
    with pytest.raises(DataError, match="one side more than"):
        preprocessor([user(Image.new("RGB", (4000, 1)))])
    with pytest.raises(DataError, match=r"row 1 .* neither a text nor a picture"):
        preprocessor([user("a"), user()])
