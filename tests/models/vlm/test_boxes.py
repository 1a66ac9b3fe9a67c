import pytest
from plain_vlm import QUICK
from qwen_helpers import EMB, image, text, user

from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.models.vlm.backbone import VLMBackbone
from embedrl.models.vlm.boxes import to_family, to_thousand
from embedrl.models.vlm.reasoner import VLMReasoner
from embedrl.tcot.parser import parse
from embedrl.tcot.prompts import SCALE, Situation, prompt
from embedrl.types import Lesson, Modality

CUE = '{"bbox_2d": [[100, 250, 500, 1000], [0, 0, 20, 20]]}'
TCOT = f"<thinking>a star {CUE}</thinking><rethink>r</rethink><answer>a</answer>"


@pytest.mark.parametrize(
    ("coordinates", "size", "box"),
    [
        ("thousand", (280, 140), "[[100, 250, 500, 1000], [0, 0, 20, 20]]"),
        ("pixels", (280, 140), "[[28, 35, 140, 140], [0, 0, 6, 3]]"),
        ("unit", (1.0, 1.0), "[[0.100, 0.250, 0.500, 1.000], [0.000, 0.000, 0.020, 0.020]]"),
    ],
)
def test_there_and_back(coordinates, size, box):
    theirs = to_family(TCOT, coordinates, size)
    assert f'{{"bbox_2d": {box}}}' in theirs
    back = parse(to_thousand(theirs, coordinates, size), Modality.IMAGE)
    assert back.ok
    half = 1000 / min(size) / 2 if coordinates == "pixels" else 0.5
    for mine, its in zip(back.tcot.cues.boxes, [(100, 250, 500, 1000), (0, 0, 20, 20)], strict=True):
        assert mine == pytest.approx(its, abs=half + 0.5)


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ('{"bbox_2d": [28, 70, 56, 140]}', '{"bbox_2d": [100, 500, 200, 1000]}'),  # one box without its list
        ('{"bbox_2d": [[28, 70', '{"bbox_2d": [[100, 500'),  # cut short
        ('{"key_frames": [28, 70]} at 28, 70', '{"key_frames": [28, 70]} at 28, 70'),
        ('{"bbox_2d": []}', '{"bbox_2d": []}'),
        ("no object, [28, 70] in prose", "no object, [28, 70] in prose"),
        ('{"bbox_2d": "28, 70"}', '{"bbox_2d": "28, 70"}'),
    ],
)
def test_what_a_model_writes_is_translated_as_far_as_it_goes(reply, told):
    assert to_thousand(reply, "pixels", (280, 140)) == told


def read(model, chat):
    return model.processor.tokenizer.decode(model.preprocessor().prompts([chat])["input_ids"][0])


def test_prompts_say_how_the_family_writes_boxes():
    words = prompt(Situation.QUERY_IMAGE)
    assert SCALE in words
    chat = [user(image(size=(96, 48)), text(words))]
    pixels, unit, thousand = (
        read(VLMReasoner(f"embedrl:tiny/{name}", max_length=4096), chat) for name in (QUICK, "lfm2_vl", "internvl")
    )
    assert "integers in pixels of the first picture, which is 64 wide and 32 high" in pixels.replace("  ", " ")
    assert '"bbox_2d": [[8, 3, 36, 29]]' in pixels.replace("  ", " ")
    assert "numbers from 0 to 1 relative to" in unit
    assert SCALE in thousand


def test_lessons_are_written_and_replies_are_told_in_the_right_coordinates(monkeypatch):
    model = VLMReasoner(f"embedrl:tiny/{QUICK}", image_pixels=PixelBudget(32**2, 32**2))
    preprocess, tokenizer = model.preprocessor(), model.processor.tokenizer
    chat = [user(image(size=(96, 96)), text("where ?"))]
    lessons = [Lesson(chat, TCOT, "tcot"), Lesson([user(text("which ?"))], TCOT, "tcot")]
    inputs = preprocess.lessons(lessons)
    pictured, alone = (tokenizer.decode(row[row != -100]) for row in inputs["labels"])
    assert "[[3, 8, 16, 32], [0, 0, 1, 1]]" in pictured
    assert "[[100, 250, 500, 1000], [0, 0, 20, 20]]" in alone  # no picture, nothing to measure
    prompts = preprocess.prompts([lesson.chat for lesson in lessons])
    told = preprocess.as_told([pictured, alone], prompts)
    assert "[[94, 250, 500, 1000], [0, 0, 31, 31]]" in told[0]
    assert told[1] == alone


def test_the_embedder_reads_cues_in_the_familys_coordinates():
    backbone = VLMBackbone(f"embedrl:tiny/{QUICK}", image_pixels=PixelBudget(32**2, 32**2))
    chat = [user(image(), text(TCOT), image(1, evidence=True)), EMB]
    ids = backbone.preprocessor()([chat])["input_ids"][0]
    assert "[[3, 8, 16, 32], [0, 0, 1, 1]]" in backbone.processor.tokenizer.decode(ids)
