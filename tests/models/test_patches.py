"""Chats → inputs: what the processor of transformers makes of them, each distinct picture being processed once."""

import random
import weakref

import pytest
import torch
from qwen_helpers import EMB, image, picture, text, user, video
from torchvision.transforms.v2 import functional as tvf
from transformers.video_utils import VideoMetadata

from embedrl.data.collate import group_micro_batches
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.preprocess import PixelBudget


@pytest.fixture(scope="module")
def preprocess():
    budgets = {"image_pixels": PixelBudget(32**2, 96 * 96), "frame_pixels": PixelBudget(32**2, 64 * 64)}
    return QwenVLBackbone("embedrl:tiny", evidence_pixels=PixelBudget(32**2, 32 * 32), **budgets).preprocessor()


def shared():
    """One picture and one video, each in several chats, also as an evidence crop and at another frame rate."""
    star, clip = image(1, (200, 120)), video(5, frames=3, size=(100, 80))
    return [
        [user(star, text("what is this ?")), EMB],
        [user(text("a question without any picture")), EMB],
        [user(star, clip, text("and then ?")), EMB],
        [user(clip, text("the same again"), star, {**star, "evidence": True}), EMB],
        [user({**clip, "fps": 1.0}, text("slower")), EMB],
        [user(image(2), star, image(2), text("which ?")), EMB],
    ]


def apart(chats):
    """The same chats, every picture being a copy."""

    def copied(part):
        if part["type"] == "image":
            return part | {"image": part["image"].copy()}
        return part | {"video": [frame.copy() for frame in part["video"]]} if part["type"] == "video" else part

    return [[message | {"content": [copied(part) for part in message["content"]]} for message in c] for c in chats]


def reference(preprocess, chats, side, prompt):
    """`Qwen3VLProcessor` on the chats with every picture resized as its budget says."""
    parts = [part for chat in chats for message in chat for part in message["content"]]

    def read(picture, budget):
        size = list(preprocess._target(picture.size, budget))
        return tvf.resize(tvf.pil_to_tensor(picture), size, interpolation=tvf.InterpolationMode.BICUBIC, antialias=True)

    pictures = [(p["image"], preprocess.evidence if p.get("evidence") else preprocess.images) for p in parts
                if p["type"] == "image"]  # fmt: skip
    videos = [p for p in parts if p["type"] == "video"]
    return preprocess.processor(
        text=[preprocess.processor.apply_chat_template(c, tokenize=False, add_generation_prompt=prompt) for c in chats],
        images=[read(*p) for p in pictures],
        videos=[torch.stack([read(frame, preprocess.frames) for frame in v["video"]]) for v in videos],
        video_metadata=[
            VideoMetadata(total_num_frames=len(v["video"]), fps=v["fps"], frames_indices=list(range(len(v["video"]))))
            for v in videos
        ],
        do_sample_frames=False, do_resize=False, padding=True, padding_side=side, add_special_tokens=False,
        return_mm_token_type_ids=True, return_tensors="pt",
    )  # fmt: skip


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("prompt", [False, True])
def test_inputs_are_those_of_the_processor_of_transformers(preprocess, prompt):
    chats = [chat[:1] for chat in shared()] if prompt else shared()
    found = preprocess.prompts(chats) if prompt else preprocess(chats)
    expected = dict(reference(preprocess, chats, "left" if prompt else "right", prompt))
    positions = found.pop("position_ids")  # tested beside `get_rope_index`
    assert_equal(found, expected)
    assert positions.shape == (3, *expected["input_ids"].shape)


def counted(preprocess, monkeypatch):
    """How many pictures and videos are going to be processed, call by call."""
    numbers = {"image": [], "video": []}
    for kind, seen in numbers.items():
        kinds = type(getattr(preprocess.processor, f"{kind}_processor"))
        call = kinds.__call__

        def spy(self, items, *args, call=call, seen=seen, **kwargs):
            seen.append(len(items))
            return call(self, items, *args, **kwargs)

        monkeypatch.setattr(kinds, "__call__", spy)
    return numbers


def test_a_picture_that_several_chats_show_is_processed_once(preprocess, monkeypatch):
    once, each = shared(), apart(shared())
    expected = preprocess(each)
    numbers = counted(preprocess, monkeypatch)
    assert_equal(preprocess(once), expected)
    # The star, and as a crop at another size; two pictures of equal pixels that are not one object; the video at two
    # rates, which its placeholder tells.
    assert numbers == {"image": [4], "video": [2]}
    preprocess(each)
    assert numbers == {"image": [4, 7], "video": [2, 3]}


def test_groups_of_one_picture_are_those_of_equal_pictures(preprocess, monkeypatch):
    """Sides with their pictures as one object give the same micro-batches, bit by bit, as copies that are compared."""
    tails = ["red", "a blue star", "a blue circle and more", "?"]
    star, clip = image(1, (200, 120)), video(5, frames=3)
    crops = [{"type": "image", "image": picture(7, (48, 48)), "evidence": True} for _ in range(2)]  # equal, two objects
    chats = [[user(star, clip, text("what ?"), *crop, text(tail)), EMB] for tail in tails for crop in ([], crops[:1])]
    chats += [[user(star, clip, text("what ?"), crops[1], text("circle")), EMB]]
    chats += [[user(image(8), text(tail)), EMB] for tail in tails]
    keys, names = ["one"] * 9 + ["two"] * 4, [str(i) for i in range(13)]
    expected, order = group_micro_batches(apart(chats), keys, names, preprocess, 32)
    expected = list(expected)
    numbers = counted(preprocess, monkeypatch)
    made, same = group_micro_batches(chats, keys, names, preprocess, 32)
    assert numbers == {"image": [], "video": []}  # nothing is processed before it is asked for
    found = list(made)
    # The star, the crops of two different beginnings, one of the four equal pictures; the others need not be processed.
    assert numbers == {"image": [1 + 2 + 1], "video": [1]}
    assert torch.equal(order, same)
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert_equal(mine, theirs)


def test_rows_of_prompts_are_those_of_one_prompt_and_join_to_any_batch(preprocess, monkeypatch):
    chats = [chat[:1] for chat in shared()]
    alone = [preprocess.prompts([chat]) for chat in chats]
    numbers = counted(preprocess, monkeypatch)
    rows = preprocess.prompt_rows(chats)
    assert numbers == {"image": [4], "video": [2]}
    for row, expected in zip(rows, alone, strict=True):
        assert_equal(row, expected)
    for seed in range(4):
        part = random.Random(seed).sample(range(len(chats)), 2 + seed)
        assert_equal(preprocess.join([rows[i] for i in part]), preprocess.prompts([chats[i] for i in part]))
    assert preprocess.prompt_rows([]) == []


def test_pixels_are_in_memory_for_a_micro_batch_at_a_time(preprocess, monkeypatch):
    """Forty rollouts of two sides, a crop each, eight at a time."""
    sides = [image(1, (200, 120)), image(2, (160, 160))]
    chats = [
        [user(side, text("what ?"), image(10 + i, (48, 48)) | {"evidence": True}, text("so ." * (1 + i % 5))), EMB]
        for i in range(20)
        for side in sides
    ]
    keys, names = ["one", "two"] * 20, [str(i) for i in range(40)]
    whole, order = group_micro_batches(chats, keys, names, preprocess, 40)
    [together] = list(whole)
    numbers = counted(preprocess, monkeypatch)
    stream, same = group_micro_batches(chats, keys, names, preprocess, 8)
    live, largest, parts = [], 0, []
    for inputs in stream:
        live = [ref for ref in live if ref() is not None] + [weakref.ref(inputs["pixel_values"])]
        largest = max(largest, len(live))
        parts.append(len(inputs["pixel_values"]))
        del inputs
    assert sorted(same.tolist()) == sorted(order.tolist()) == list(range(40))
    assert 5 <= len(parts) <= 7
    assert largest <= 2
    assert max(parts) < len(together["pixel_values"]) / 3
    # Each crop once; a side again only where a micro-batch in between does not show it.
    assert 40 + 2 <= sum(numbers["image"]) <= 40 + 2 * len(parts)
