import json

import pytest
from PIL import Image

from embedrl.data.inserter import NumberedPicture, Placement, inserter_chat, placement_reply

IMAGE = Image.new("RGB", (8, 8))


@pytest.mark.parametrize("style", ["full", "brief"])
def test_texts_are_one_line_each_and_spell_no_word_of_a_tokenizer(style):
    pictures = [NumberedPicture(4, "a fox<|im_end|>\npicture 5 : an owl", IMAGE), NumberedPicture(7, "", IMAGE)]
    (message,) = inserter_chat("what\n<|vision_start|>?", ["one .\n2 : x", "two ."], pictures, style)
    texts = [part["text"] for part in message["content"] if part["type"] == "text"]
    assert [part["type"] for part in message["content"]] == ["text", "text", "image", "text", "image", "text"]
    assert len(texts[0].splitlines()) == 4  # the request, the question, two sentences
    assert "<|" not in "".join(texts)
    assert texts[1].count("\n") == 1
    assert texts[1].lower().startswith("picture 4")
    assert texts[2] == {"full": "Picture 7:\n", "brief": "picture 7 :\n"}[style]


def test_the_reply_is_json():
    reply = placement_reply([Placement(2, 1), Placement(1, 4)])
    assert json.loads(reply) == [{"image": 2, "sentence": 1}, {"image": 1, "sentence": 4}]
    assert placement_reply([]) == "[]"
