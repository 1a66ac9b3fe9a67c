"""An exported Embedder gives the same vectors through sentence-transformers, plain transformers and embedrl."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor, ProcessorMixin

from embedrl.data.render import SUMMARIZE, RenderOptions, render
from embedrl.errors import CheckpointError
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.sentence_transformers_layout import closing_template, write_layout
from embedrl.types import Side
from embedrl.utils.reserved_words import EMB_TOKEN, word_list


class Picture:
    def __init__(self, seed: int, width: int, height: int) -> None:
        self.name = f"{seed}/{width}x{height}"
        pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
        self.image = Image.fromarray(pixels)

    def load(self) -> Image.Image:
        return self.image


A, B = Picture(0, 96, 96), Picture(1, 100, 60)
FRAMES = tuple(Picture(10 + i, 32, 32) for i in range(8))
SIDES = {
    "text": Side(text="the red star"),
    "image": Side(images=(A,)),
    "image and text": Side(text="find it", images=(A,)),
    "video": Side(frames=FRAMES),
    "video and text": Side(text="find it", frames=FRAMES),
    "two images": Side(text="two", images=(A, B)),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    folder = tmp_path_factory.mktemp("exported")
    backbone = QwenVLBackbone("embedrl:tiny")
    backbone.build()
    backbone.eval()
    backbone.export(folder)
    return folder, vectors(backbone)


def vectors(backbone: QwenVLBackbone) -> torch.Tensor:
    with torch.no_grad():
        return backbone.encode(backbone.preprocessor()([render(s, RenderOptions(tcot="none")) for s in SIDES.values()]))


def content(side: Side) -> list[dict]:
    parts: list[dict] = [{"type": "image", "image": image.load()} for image in side.images]
    if side.frames:
        parts.append({"type": "video", "video": [frame.load() for frame in side.frames]})
    return parts + ([{"type": "text", "text": side.text}] if side.text else [])


def test_plain_transformers_gives_the_same_vectors(exported: tuple[Path, torch.Tensor]) -> None:
    folder, expected = exported
    processor, model = AutoProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    for side, vector in zip(SIDES.values(), expected, strict=True):
        chat = [{"role": "user", "content": content(side)}]
        clip = {"video_metadata": [{"fps": 2.0, "total_num_frames": 8, "frames_indices": list(range(8))}]}
        inputs = processor.apply_chat_template(
            chat,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"do_sample_frames": False, **clip} if side.frames else {},
        )
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state[0]
        at = (inputs["input_ids"][0] == model.config.emb_token_ids[0]).nonzero()[-1]
        torch.testing.assert_close(torch.nn.functional.normalize(hidden[at], dim=-1)[0], vector, atol=1e-5, rtol=0)


def test_sentence_transformers_gives_the_same_vectors(exported: tuple[Path, torch.Tensor]) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder, expected = exported
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    clip = {
        "array": np.stack([np.asarray(frame.image).transpose(2, 0, 1) for frame in FRAMES]),
        "video_metadata": {"fps": 2.0, "total_num_frames": 8, "frames_indices": list(range(8))},
    }
    inputs = [
        "the red star",
        A.image,
        {"image": A.image, "text": "find it"},
        clip,
        {"video": clip, "text": "find it"},
        {"image": [A.image, B.image], "text": "two"},
    ]
    together = model.encode(inputs, convert_to_tensor=True)
    torch.testing.assert_close(together, expected, atol=1e-5, rtol=0)
    alone = torch.cat([model.encode([item], convert_to_tensor=True) for item in inputs])
    torch.testing.assert_close(alone, expected, atol=1e-5, rtol=0)


def test_embedrl_loads_its_own_export(exported: tuple[Path, torch.Tensor]) -> None:
    folder, expected = exported
    backbone = QwenVLBackbone(str(folder))
    backbone.build()
    backbone.eval()
    torch.testing.assert_close(vectors(backbone), expected, atol=1e-6, rtol=0)


def test_template_closes_open_conversations_alone(exported: tuple[Path, torch.Tensor]) -> None:
    folder, _ = exported
    processor = AutoProcessor.from_pretrained(folder)
    render_text = processor.apply_chat_template
    user = {"role": "user", "content": "hello"}
    closed = render_text([user], tokenize=False)
    assert closed.endswith(EMB_TOKEN)
    assert closed.count(SUMMARIZE) == 1
    by_hand = [
        {"role": "user", "content": f"hello\n{SUMMARIZE}"},
        {"role": "assistant", "content": EMB_TOKEN},
    ]
    assert render_text(by_hand, tokenize=False) == closed
    prompt = render_text([user], tokenize=False, add_generation_prompt=True)
    assert SUMMARIZE not in prompt
    assert EMB_TOKEN not in prompt


USER, CLOSED = "<|im_start|>user\n", f"{SUMMARIZE}<|im_end|>\n<|im_start|>assistant\n{EMB_TOKEN}"
PICTURE = {"type": "image"}
SEEN = "<|vision_start|><|image_pad|><|vision_end|>"


def words(text: str) -> dict:
    return {"type": "text", "text": text}


def turn(*parts: dict | str, role: str = "user") -> dict:
    return {"role": role, "content": [words(part) if isinstance(part, str) else part for part in parts]}


TURNS = {
    "text": ([turn("hello")], f"{USER}hello\n{CLOSED}"),
    "a string": ([{"role": "user", "content": "hello"}], f"{USER}hello\n{CLOSED}"),
    "a picture": ([turn(PICTURE)], f"{USER}{SEEN}{CLOSED}"),
    "a text before a picture goes behind it": ([turn("red", PICTURE)], f"{USER}{SEEN}red\n{CLOSED}"),
    "between two pictures too": ([turn(PICTURE, "red", PICTURE)], f"{USER}{SEEN}{SEEN}red\n{CLOSED}"),
    "several texts stay where they are": (
        [turn(PICTURE, "thinking", PICTURE, "so")],
        f"{USER}{SEEN}thinking{SEEN}so\n{CLOSED}",
    ),
    "a blank text is none": ([turn(PICTURE, "  ")], f"{USER}{SEEN}{CLOSED}"),
    "a system turn": ([turn("find: ", role="system"), turn("hello")], f"{USER}find: hello\n{CLOSED}"),
    "as a string": (
        [{"role": "system", "content": "find: "}, {"role": "user", "content": "hello"}],
        f"{USER}find: hello\n{CLOSED}",
    ),
    "before a picture": ([turn("find: ", role="system"), turn(PICTURE)], f"{USER}{SEEN}find: \n{CLOSED}"),
    "before both": ([turn("find: ", role="system"), turn(PICTURE, "red")], f"{USER}{SEEN}find: red\n{CLOSED}"),
    "special tokens": (
        [turn("a <|im_end|><emb> b <|image_pad|> <|IM_END|>")],
        f"{USER}a < |im_end|>< emb> b < |image_pad|> <|IM_END|>\n{CLOSED}",
    ),
    "one made by taking another away": ([turn("<|im_<emb>end|>")], f"{USER}<|im_< emb>end|>\n{CLOSED}"),
}


@pytest.fixture(scope="module")
def processor(exported: tuple[Path, torch.Tensor]) -> ProcessorMixin:
    return AutoProcessor.from_pretrained(exported[0])


@pytest.mark.parametrize("name", TURNS)
def test_template_makes_of_a_chat_what_the_training_read(name: str, processor: ProcessorMixin) -> None:
    chat, expected = TURNS[name]
    assert processor.apply_chat_template(chat, tokenize=False) == expected


def test_layout_is_stable_and_needs_a_template(exported: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    folder, _ = exported
    template, tokenizer = (folder / "chat_template.jinja").read_text(), AutoProcessor.from_pretrained(folder).tokenizer
    assert closing_template(template, word_list(tokenizer)) == template
    assert json.loads((folder / "1_Pooling" / "config.json").read_text())["embedding_dimension"] == 128
    with pytest.raises(CheckpointError, match="chat_template"):
        write_layout(tmp_path, 8, tokenizer)
