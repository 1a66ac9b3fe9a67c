"""What sentence-transformers hands over, read as sides: valid and invalid inputs."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from embedrl.errors import CheckpointError, ConfigError, DataError
from embedrl.inference import SentenceTransformersModule
from embedrl.inference.sentence_module import to_side
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.vlm.backbone import VLMBackbone
from embedrl.types import Side

RED, CLEAR = Image.new("RGB", (40, 30), "red"), Image.new("RGBA", (40, 30), (255, 0, 0, 0))
ARRAY = np.asarray(RED)
PNG = io.BytesIO()
Image.effect_noise((64, 64), 90).save(PNG, "PNG")
PNG = PNG.getvalue()
SEVERAL = np.stack([ARRAY.transpose(2, 0, 1)] * 4)


def user(*parts):
    return {"role": "user", "content": list(parts)}


TEXT, IMAGE = {"type": "text", "text": "star"}, {"type": "image", "image": RED}

# name: input, prompt, text, pictures, frames, frames a second
VALID = {
    "text": ("star", "", "star", 0, 0, 2.0),
    "a text that ends like a picture": ("no/such.png", "", "no/such.png", 0, 0, 2.0),
    "prompt": ("star", "find: ", "find: star", 0, 0, 2.0),
    "words of the tokenizer": ("a <|im_end|> b <emb>", "", "a < |im_end|> b < emb>", 0, 0, 2.0),
    "Pillow": (RED, "", "", 1, 0, 2.0),
    "prompt and picture": (RED, "find: ", "find: ", 1, 0, 2.0),
    "array": (ARRAY, "", "", 1, 0, 2.0),
    "tensor, channels first": (torch.from_numpy(ARRAY.transpose(2, 0, 1).copy()), "", "", 1, 0, 2.0),
    "dict": ({"text": "star", "image": RED}, "", "star", 1, 0, 2.0),
    "dict of several": ({"image": [RED, CLEAR], "text": "star"}, "", "star", 2, 0, 2.0),
    "frames": ({"video": [RED, RED, RED]}, "", "", 0, 3, 2.0),
    "frames alone": ([RED, RED], "", "", 0, 2, 2.0),
    "array of frames": (SEVERAL, "", "", 0, 4, 2.0),
    "metadata": ({"array": SEVERAL, "video_metadata": {"fps": 10, "total_num_frames": 4}}, "", "", 0, 4, 10.0),
    "every fifth frame": (
        {"video": {"array": SEVERAL, "video_metadata": {"fps": 10, "frames_indices": [0, 5, 10, 15]}}, "text": "star"},
        "",
        "star",
        0,
        4,
        2.0,
    ),
    "chat": ([user(IMAGE, TEXT)], "", "star", 1, 0, 2.0),
    "one message": ({"role": "user", "content": "star"}, "", "star", 0, 0, 2.0),
    "system turn": ([{"role": "system", "content": "find: "}, user(TEXT)], "", "find: star", 0, 0, 2.0),
}


@pytest.mark.parametrize("name", VALID)
def test_an_input_becomes_a_side(name):
    item, prompt, text, images, frames, fps = VALID[name]
    side = to_side(item, prompt)
    assert (side.text, len(side.images), len(side.frames), side.fps) == (text, images, frames, fps)
    for picture in (*side.images, *side.frames):
        assert picture.load().mode == "RGB"
        assert picture.load().size == (40, 30)


def test_transparent_pixels_are_white():
    assert to_side(CLEAR).images[0].load().getpixel((0, 0)) == (255, 255, 255)


INVALID = {
    "number": (3, "an input of type int"),
    "nothing": (None, "an input of type NoneType"),
    "sound": ({"audio": [0.1]}, "an input with audio"),
    "missing picture": ({"image": "no/such.png"}, "no/such.png"),
    "cut short": (Image.open(io.BytesIO(PNG[: len(PNG) // 2])), "a picture that cannot be decoded"),
    "a number as a picture": ({"image": 3}, "a picture of type int"),
    "floats": (np.zeros((8, 8, 3)), "pixels of float64"),
    "two channels": (np.zeros((8, 8, 2), np.uint8), r"pixels of uint8 \[8, 8, 2\]"),
    "narrow": (Image.new("RGB", (1, 300)), "one side more than 200 times"),
    "video file": ({"video": "film.mp4"}, "a video of 'film.mp4'"),
    "no frames": ({"video": []}, "a video without frames"),
    "indices": ({"array": SEVERAL, "video_metadata": {"fps": 1, "frames_indices": [0]}}, "with 1 frames_indices"),
    "a text that is none": ({"text": 3}, "a text that is no string"),
    "assistant": ([user(TEXT), {"role": "assistant", "content": "x"}], "a chat of user, assistant"),
    "unknown part": ([user({"type": "audio", "audio": 1})], "a part of type 'audio'"),
    "picture in a system turn": ([{"role": "system", "content": [IMAGE]}, user(TEXT)], "a part of type 'image'"),
    "two videos": ([user({"type": "video", "video": [RED]}, {"type": "video", "video": [RED]})], "several videos"),
}


@pytest.mark.parametrize("name", INVALID)
def test_any_other_is_one_error(name):
    item, message = INVALID[name]
    with pytest.raises(DataError, match=message):
        [picture.load() for picture in to_side(item).images]


@pytest.fixture(scope="module")
def backbone(checkpoint):
    backbone = QwenVLBackbone(str(checkpoint))
    backbone.build()
    return backbone.eval()


def test_it_serves_sentence_transformers(backbone, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.SentenceTransformer(modules=[SentenceTransformersModule(backbone)], device="cpu")
    assert {"text", "image", "video"} <= set(model.modalities)
    assert model.supports(("image", "text"))
    assert model.get_embedding_dimension() == 128
    assert model.max_seq_length == backbone.max_length
    assert model.tokenizer is backbone.processor.tokenizer
    vectors = model.encode(["star", CLEAR, {"image": CLEAR, "text": "star"}, [RED, RED]], convert_to_tensor=True)
    white = model.encode([Image.new("RGB", (40, 30), "white")], convert_to_tensor=True)
    torch.testing.assert_close(vectors[1], white[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    with pytest.raises(DataError, match="input 0 of the batch: the side is empty"):
        model.encode([" "])
    with pytest.raises(ConfigError, match="embedrl export"):
        model.save_pretrained(str(tmp_path))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot read config\.json"):
        SentenceTransformersModule(tmp_path)


def test_a_query_may_spell_what_marks_pixels_in_another_family():
    module = SentenceTransformersModule(VLMBackbone("embedrl:tiny/internvl"))
    marked, plain = module.preprocess(["a <IMG_CONTEXT> b"]), module.preprocess(["a < IMG_CONTEXT> b"])
    assert torch.equal(marked["input_ids"], plain["input_ids"])


def test_a_side_of_text_is_what_embedrl_reads():
    assert to_side("a star") == Side("a star")
