"""Small stand-ins for data sets, pictures and a backbone's preprocessor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from embedrl.data.datamodules.egrl import EGRLDataModule
from embedrl.data.datamodules.embedder import EmbedderDataModule
from embedrl.data.datamodules.reasoner import ReasonerDataModule
from embedrl.data.mix import MixRow
from embedrl.data.render import RenderOptions
from embedrl.errors import DataError
from embedrl.types import Chat, Lesson, Modality, Pair, RetrievalTask, Side

IMAGE_TCOT = (
    '<thinking>a red square {"bbox_2d": [[0, 0, 500, 500], [500, 500, 1000, 1000]]}</thinking>'
    "<rethink>the square</rethink><answer>red square</answer>"
)
VIDEO_TCOT = (
    '<thinking>it turns blue {"key_frames": [2, 4]}</thinking><rethink>blue</rethink><answer>turns blue</answer>'
)
TEXT_TCOT = '<thinking>asks for red {"text_keywords": ["red"]}</thinking><rethink>red</rethink><answer>red</answer>'


@dataclass(frozen=True)
class Quarters:
    """A picture with four quarters of different colours."""

    size: tuple[int, int] = (40, 20)
    colours: tuple[str, ...] = ("red", "green", "blue", "white")

    @property
    def name(self) -> str:
        return f"quarters/{self.size}/{self.colours}"

    def load(self) -> Image.Image:
        width, height = self.size
        picture = Image.new("RGB", self.size)
        for i, colour in enumerate(self.colours):
            x, y = (i % 2) * width // 2, (i // 2) * height // 2
            picture.paste(colour, (x, y, x + width // 2, y + height // 2))
        return picture


@dataclass(frozen=True)
class Frame:
    """A frame of one grey."""

    grey: int

    @property
    def name(self) -> str:
        return f"frame/{self.grey}"

    def load(self) -> Image.Image:
        return Image.new("RGB", (16, 16), (self.grey,) * 3)


@dataclass(frozen=True)
class Broken:
    """A picture that cannot be opened."""

    name: str = "broken.png"

    def load(self) -> Image.Image:
        raise DataError(f"{self.name}: truncated; copy it again")


@dataclass
class Numbers:
    """Pairs `query 3 of NAME` → `target 3 of NAME`; the rows in `broken` have a picture that cannot be opened."""

    name: str = "numbers"
    size: int = 20
    video: bool = False
    broken: tuple[int, ...] = ()
    negatives: int = 0

    @property
    def modality(self) -> Modality:
        return Modality.VIDEO if self.video else Modality.TEXT

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Pair:
        return Pair(
            Side(text=f"query {index} of {self.name}", images=(Broken(),) if index in self.broken else ()),
            Side(text=f"target {index} of {self.name}"),
            dataset=self.name,
            id=str(index),
            negatives=tuple(Side(text=f"negative {i} {index}") for i in range(index % (self.negatives + 1))),
        )


@dataclass
class NumberTasks:
    """One task `NAME`: query i finds candidate i; a few queries are the same side twice."""

    name: str = "numbers"
    size: int = 7

    def tasks(self) -> list[RetrievalTask]:
        queries = [Side(text=f"query {i % 5} of {self.name}") for i in range(self.size)]
        candidates = [Side(text=f"candidate {i} of {self.name}") for i in range(self.size)]
        return [RetrievalTask(self.name, queries, candidates, [{i % 5: 1.0} for i in range(self.size)])]


@dataclass
class NumberLessons:
    """Lessons `lesson 3`."""

    size: int
    name: str = "numbers"

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Lesson:
        ask = [{"role": "user", "content": [{"type": "text", "text": f"prompt {index}"}]}]
        return Lesson(ask, f"lesson {index}", "number")


class FakePreprocessor:
    """A backbone's and a generator's preprocessor; refuses the word `toolong`.

    One row a chat: `value` holds the first number in its text, `size` its length.
    """

    def __call__(self, chats: Sequence[Chat]) -> dict[str, torch.Tensor]:
        texts = ["".join(part.get("text", "") for part in chat[0]["content"]) for chat in chats]
        if any("toolong" in text for text in texts):
            raise DataError("longer than max_length 8192: shorten it")
        numbers = [re.search(r"\d+", text) for text in texts]
        return {
            "value": torch.tensor([float(n[0]) if n else -1.0 for n in numbers]),
            "size": torch.tensor([self.length(chat) for chat in chats]),
        }

    def length(self, chat: Chat) -> int:
        parts = chat[0]["content"]
        return sum(len(part["text"]) if part["type"] == "text" else 50 for part in parts)

    def prompts(self, chats: Sequence[Chat]) -> dict[str, torch.Tensor]:
        return self(chats)

    def lessons(self, lessons: Sequence[Lesson]) -> dict[str, torch.Tensor]:
        return self([lesson.chat for lesson in lessons])


def mix() -> list[MixRow]:
    return [MixRow(Numbers("a", 9)), MixRow(Numbers("b", 7), weight=2.0)]


DATA_MODULES = {
    "embedder": lambda **options: EmbedderDataModule(
        batch_size=4, sub_batch_size=2, micro_batch_size=3, mix=mix(), val=[NumberTasks()],
        render=RenderOptions(tcot="none"), **options,
    ),
    "reasoner": lambda **options: ReasonerDataModule(4, 3, NumberLessons(18), NumberLessons(3), **options),
    "curriculum": lambda **options: ReasonerDataModule(4, 3, NumberLessons(18), shuffle=False, **options),
    "egrl": lambda **options: EGRLDataModule(4, mix(), NumberLessons(3), None, 4, block_size=2, **options),
}  # fmt: skip
"""Every data module, with four batches an epoch."""
