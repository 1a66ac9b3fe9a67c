import random
import time

import pytest
from fake_data import IMAGE_TCOT, TEXT_TCOT, VIDEO_TCOT, Broken, Frame, Quarters
from hypothesis import given, settings
from hypothesis import strategies as st

from embedrl.data.render import SUMMARIZE, RenderOptions, render, renders_raw
from embedrl.errors import ConfigError, DataError
from embedrl.types import Side
from embedrl.utils.reserved_words import EMB_TOKEN

IMAGE = Side(text="what is this", images=(Quarters(),), tcot=IMAGE_TCOT)
VIDEO = Side(text="what happens", frames=tuple(Frame(60 * i) for i in range(1, 5)), tcot=VIDEO_TCOT, fps=1.0)
TEXT = Side(text="a red thing", tcot=TEXT_TCOT)
FULL = RenderOptions(crop_margin=0.0)


def parts(chat):
    """The user turn in short: texts as they are, pictures as (kind, size)."""
    short = []
    for part in chat[0]["content"]:
        if part["type"] == "text":
            short.append(part["text"])
        elif part["type"] == "image":
            short.append(("evidence" if part.get("evidence") else "image", part["image"].size))
        else:
            short.append(("video", len(part["video"]), part["fps"]))
    return short


def evidence(chat):
    return [part["image"] for part in chat[0]["content"] if part.get("evidence")]


def test_image_side_has_the_order_of_equation_2():
    chat = render(IMAGE, FULL)
    assert parts(chat) == [
        ("image", (40, 20)),
        "what is this",
        '\n<thinking>a red square {"bbox_2d": [[0, 0, 500, 500], [500, 500, 1000, 1000]]}</thinking>',
        ("evidence", (20, 10)),
        ("evidence", (20, 10)),
        "<rethink>the square</rethink><answer>red square</answer>",
        f"\n{SUMMARIZE}",
    ]
    assert [crop.getpixel((5, 5)) for crop in evidence(chat)] == [(255, 0, 0), (255, 255, 255)]
    assert [message["role"] for message in chat] == ["user", "assistant"]
    assert chat[1]["content"] == [{"type": "text", "text": EMB_TOKEN}]


def test_key_frames_of_a_video_enter_again_as_images():
    chat = render(VIDEO, FULL)
    assert parts(chat)[:4] == [
        ("video", 4, 1.0),
        "what happens",
        '\n<thinking>it turns blue {"key_frames": [2, 4]}</thinking>',
        ("evidence", (16, 16)),
    ]
    assert [frame.getpixel((0, 0))[0] for frame in evidence(chat)] == [120, 240]


def test_text_side_has_no_evidence():
    assert parts(render(TEXT, FULL)) == [
        "a red thing",
        '\n<thinking>asks for red {"text_keywords": ["red"]}</thinking>',
        "\n<rethink>red</rethink><answer>red</answer>",
        f"\n{SUMMARIZE}",
    ]


def test_several_images_come_first_and_boxes_point_into_the_first():
    side = Side(images=(Quarters(), Quarters((10, 10), ("black",) * 4)), tcot=IMAGE_TCOT)
    chat = render(side, FULL)
    assert parts(chat)[:2] == [("image", (40, 20)), ("image", (10, 10))]
    assert evidence(chat)[0].getpixel((5, 5)) == (255, 0, 0)


def test_images_and_a_video_in_one_side_take_key_frames():
    chat = render(Side(images=(Quarters(),), frames=VIDEO.frames, tcot=VIDEO_TCOT), FULL)
    assert parts(chat)[:2] == [("image", (40, 20)), ("video", 4, 2.0)]
    assert [picture.size for picture in evidence(chat)] == [(16, 16), (16, 16)]


@pytest.mark.parametrize(
    ("options", "texts", "crops"),
    [
        ({}, ['a red square {"bbox_2d": [[0, 0', "<rethink>", "<answer>red square</answer>"], 2),
        ({"cues": "printed"}, ['a red square {"bbox_2d": [[0, 0', "<rethink>"], 0),
        ({"cues": "off"}, ["<thinking>a red square</thinking>", "<rethink>"], 0),
        ({"tcot": "answer_only"}, ["what is this\n<answer>red square</answer>\nSumm"], 0),
        ({"tcot": "none"}, [f"what is this\n{SUMMARIZE}"], 0),
        ({"max_evidence": 1}, ["<rethink>"], 1),
        ({"max_evidence": 0}, ["<rethink>"], 0),
    ],
)
def test_ablation_switches(options, texts, crops):
    chat = render(IMAGE, RenderOptions(**options))
    whole = "".join(part.get("text", "") for part in chat[0]["content"])
    assert all(text in whole for text in texts)
    assert len(evidence(chat)) == crops
    if options.get("tcot", "full") != "full":
        assert "<thinking>" not in whole
    if options.get("cues") == "off":
        assert "bbox_2d" not in whole


def test_cues_off_removes_an_object_with_braces_in_its_strings():
    tcot = TEXT_TCOT.replace('["red"]', r'["re}d", "{\"x"]')
    chat = render(TEXT.with_tcot(tcot), RenderOptions(cues="off"))
    assert parts(chat)[1] == "\n<thinking>asks for red</thinking>"


def test_tcot_none_ignores_a_broken_tcot():
    assert parts(render(TEXT.with_tcot("nonsense"), RenderOptions(tcot="none"))) == ["a red thing", f"\n{SUMMARIZE}"]


def test_missing_tcot_raises_or_renders_raw():
    bare = TEXT.with_tcot("")
    with pytest.raises(DataError, match=r"set/7: no T-CoT.*on_missing_tcot: raw"):
        render(bare, FULL, where="set/7")
    raw = RenderOptions(on_missing_tcot="raw")
    assert render(bare, raw) == render(bare, RenderOptions(tcot="none"))
    assert renders_raw(bare, raw)
    assert not renders_raw(TEXT, raw)
    assert not renders_raw(bare, RenderOptions(tcot="none"))


@pytest.mark.parametrize(
    ("side", "tcot", "message"),
    [
        (TEXT, "just prose", "thinking"),
        (IMAGE, IMAGE_TCOT.replace("bbox_2d", "key_frames"), "bbox_2d"),
        (IMAGE, IMAGE_TCOT.replace("1000, 1000", "1200, 1000"), "0..1000"),
        (VIDEO, VIDEO_TCOT.replace("[2, 4]", "[2, 5]"), "outside 1..4"),
        (TEXT, TEXT_TCOT.replace("asks", "<|image_pad|> asks"), "image_pad"),
    ],
)
def test_bad_tcot_raises_or_is_read_leniently(side, tcot, message):
    with pytest.raises(DataError, match=f"(?s)set/7: .*{message}.*"):
        render(side.with_tcot(tcot), FULL, where="set/7")
    lenient = render(side.with_tcot(tcot), RenderOptions(on_bad_tcot="lenient"))
    whole = "".join(part.get("text", "") for part in lenient[0]["content"])
    assert "<|image_pad|>" not in whole
    assert "<thinking>" in whole
    assert whole.endswith(SUMMARIZE)


def test_lenient_evidence_is_what_can_be_read():
    tcot = VIDEO_TCOT.replace("[2, 4]", "[0, 4, 5, -1, 1, 9]")
    chat = render(VIDEO.with_tcot(tcot), RenderOptions(on_bad_tcot="lenient"))
    assert [frame.getpixel((0, 0))[0] for frame in evidence(chat)] == [240, 60]


@pytest.mark.parametrize("token", ["<emb>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|im_end|>"])
def test_reserved_tokens_in_a_text_are_refused(token):
    with pytest.raises(DataError, match=r"set/7: the text holds .*reserved"):
        render(Side(text=f"look {token} here"), RenderOptions(tcot="none"), where="set/7")


@given(st.lists(st.sampled_from(["<", "<emb>", "emb>", "<|image_pad|>", "|image_pad|>", " ", "x"]), max_size=8))
@settings(max_examples=200, deadline=None)
def test_no_reserved_token_survives_in_a_lenient_tcot(pieces):
    tcot = TEXT_TCOT.replace("asks", "".join(pieces) + "asks")
    chat = render(TEXT.with_tcot(tcot), RenderOptions(on_bad_tcot="lenient"))
    whole = "".join(part["text"] for part in chat[0]["content"])
    assert "<emb>" not in whole
    assert "<|image_pad|>" not in whole


@pytest.mark.parametrize("side", [Side(), Side(text="  \n"), Side(tcot=TEXT_TCOT)])
def test_empty_side_is_refused(side):
    with pytest.raises(DataError, match="set/7: the side is empty"):
        render(side, FULL, where="set/7")


def test_a_broken_picture_names_the_sample():
    with pytest.raises(DataError, match=r"set/7: broken\.png: truncated"):
        render(Side(images=(Broken(),)), RenderOptions(tcot="none"), where="set/7")


def test_margin_widens_a_crop():
    side = Side(images=(Quarters(),), tcot=IMAGE_TCOT)
    assert [crop.size for crop in evidence(render(side, RenderOptions(crop_margin=0.5)))] == [(30, 15), (30, 15)]


def test_noise_only_with_a_generator_and_the_same_for_the_same_seed():
    noisy = RenderOptions(crop_margin=0.0, jitter=100, drop_evidence=0.3, replace_evidence=0.3)
    assert parts(render(IMAGE, noisy)) == parts(render(IMAGE, FULL))
    seeds = [parts(render(IMAGE, noisy, random.Random(seed))) for seed in range(20)]
    assert seeds == [parts(render(IMAGE, noisy, random.Random(seed))) for seed in range(20)]
    assert len({str(short) for short in seeds}) > 5


def test_shares_of_dropped_and_replaced_evidence():
    rng = random.Random(0)
    drop = RenderOptions(drop_evidence=0.25)
    kept = sum(len(evidence(render(VIDEO, drop, rng))) for _ in range(1000)) / 2000
    assert abs(kept - 0.75) < 0.04  # standard error .01
    replace = RenderOptions(replace_evidence=0.4)
    greys = [[f.getpixel((0, 0))[0] for f in evidence(render(VIDEO, replace, rng))] for _ in range(1000)]
    same = sum(a == 120 for a, _ in greys) / 1000
    assert abs(same - (0.6 + 0.4 / 4)) < 0.06  # a replaced frame is the right one in one of four cases


def test_a_share_of_sides_is_read_without_its_tcot():
    rng, options = random.Random(0), RenderOptions(drop_tcot=0.3)
    raw, whole = (parts(render(IMAGE, RenderOptions(tcot=kind))) for kind in ("none", "full"))
    drawn = [parts(render(IMAGE, options, rng)) for _ in range(400)]
    assert all(one in (raw, whole) for one in drawn)
    assert abs(drawn.count(raw) / 400 - 0.3) < 0.09  # standard error .023
    assert parts(render(IMAGE, options)) == whole


def test_a_replaced_box_keeps_its_size():
    side = Side(images=(Quarters((100, 100)),), tcot=IMAGE_TCOT.replace("[0, 0, 500, 500], ", ""))
    options = RenderOptions(crop_margin=0.0, replace_evidence=1.0)
    sizes = [evidence(render(side, options, random.Random(seed)))[0].size for seed in range(50)]
    assert all(50 <= width <= 51 and 50 <= height <= 51 for width, height in sizes)


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"max_evidence": -1}, "render.max_evidence"),
        ({"crop_margin": -0.1}, "render.crop_margin"),
        ({"jitter": 1001}, "render.jitter"),
        ({"drop_evidence": 1.5}, "render.drop_evidence"),
        ({"replace_evidence": -0.1}, "render.replace_evidence"),
        ({"drop_tcot": 2}, "render.drop_tcot"),
    ],
)
def test_options_out_of_range_name_the_flag(options, flag):
    with pytest.raises(ConfigError, match=flag):
        RenderOptions(**options)


@pytest.mark.slow
@pytest.mark.parametrize("hostile", ["{[", '{"', '{"a":', '{"\\'])
def test_hostile_thinking_is_rendered_in_time(hostile):
    tcot = TEXT_TCOT.replace("asks", hostile * 4000 + "asks")
    start = time.perf_counter()
    render(TEXT.with_tcot(tcot), RenderOptions(cues="off", on_bad_tcot="lenient"))
    assert time.perf_counter() - start < 2
