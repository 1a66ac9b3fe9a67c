"""Chats → inputs of a two-tower model. Holds no weights, so it pickles into loader workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image

from embedrl.data.images import check_size
from embedrl.data.inputs import ModelInputs
from embedrl.data.render import SUMMARIZE
from embedrl.errors import DataError
from embedrl.types import Chat

IMAGE, EVIDENCE, FRAME = 0, 1, 2
"""The groups of pictures of a side, as `pixel_group` numbers them."""


class PackedPreprocessor(ABC):
    """Turns chats into the inputs of two towers.

    The inputs of one micro-batch are packed: a text tower sees only the rows that have a text, an image tower all
    pictures of all rows, and index tensors say where each belongs.

    | key | shape | what |
    |---|---|---|
    | `rows` | `[batch]` | 0, 1, 2 ...: says how many rows there are |
    | `text_row` | `[texts]` | the row of each text |
    | `pixel_row` | `[pictures]` | the row of each picture |
    | `pixel_group` | `[pictures]` | 0 picture, 1 evidence, 2 video frame |

    and what `read_texts` and `read_images` return, the first dimension being that of texts or pictures.

    Args:
        context_length: Tokens in a text, at most; what is longer is cut off.
    """

    def __init__(self, context_length: int) -> None:
        self.context_length = context_length

    @property
    @abstractmethod
    def patches(self) -> int:
        """About how many patches a picture has."""

    @abstractmethod
    def read_texts(self, texts: list[str]) -> ModelInputs:
        """The text tower's inputs; the list may be empty."""

    @abstractmethod
    def read_images(self, images: list[Image]) -> ModelInputs:
        """The image tower's inputs; the list may be empty."""

    def __call__(self, chats: Sequence[Chat]) -> ModelInputs:
        """Process one micro-batch.

        Raises:
            DataError: If a chat holds neither a text nor a picture, or a picture is too large or too narrow.
        """
        texts, text_row = [], []
        images, pixel_row, pixel_group = [], [], []
        for row, chat in enumerate(chats):
            # Far more than the tower reads: some tokenizers take hours for a word of a million letters.
            text, pictures = read_text(chat)[: self.context_length * 64], read_pictures(chat)
            if not text and not pictures:
                raise DataError(f"row {row} of the micro-batch holds neither a text nor a picture: give it one")
            if text:
                texts.append(text)
                text_row.append(row)
            for picture, group in pictures:
                # Many resize the short side: without a bound the long one becomes as long as memory lasts.
                check_size(*picture.size, f"a picture of row {row} of the micro-batch", cure="shrink it")
                images.append(picture)
                pixel_row.append(row)
                pixel_group.append(group)
        return {
            "rows": torch.arange(len(chats)),
            **self.read_texts(texts),
            "text_row": torch.tensor(text_row, dtype=torch.long),
            **self.read_images(images),
            "pixel_row": torch.tensor(pixel_row, dtype=torch.long),
            "pixel_group": torch.tensor(pixel_group, dtype=torch.long),
        }

    def length(self, chat: Chat) -> int:
        """The chat's cost in tokens, a word counting as one."""
        words = len(read_text(chat).split())
        return len(read_pictures(chat)) * self.patches + min(words, self.context_length)


def read_text(chat: Chat) -> str:
    """The text that a two-tower model reads of a chat, empty if there is none.

    A text tower has room for a few dozen tokens and cuts the rest off, so what retrieval needs most comes first: the
    T-CoT's answer, the side's own text, then `rethink`, then `thinking`. The tags, the line `SUMMARIZE` and the
    assistant's turn are written for generative models and left out.
    """
    parts = [p["text"] for message in chat if message["role"] != "assistant" for p in _parts(message, "text")]
    rest = "\n".join(part for part in parts if part.strip() != SUMMARIZE)
    pieces = {}
    for tag in ("thinking", "rethink", "answer"):
        before, opened, inside = rest.partition(f"<{tag}>")
        inside, closed, after = inside.partition(f"</{tag}>")
        if opened and closed:
            pieces[tag], rest = inside, f"{before} {after}"
    order = [pieces.get("answer", ""), rest, pieces.get("rethink", ""), pieces.get("thinking", "")]
    return " ".join(" ".join(order).split())


def read_pictures(chat: Chat) -> list[tuple[Image, int]]:
    """The pictures of a chat in order, each with its group."""
    pictures = []
    for message in chat:
        for part in _parts(message, "image", "video"):
            if part["type"] == "video":
                pictures += [(frame, FRAME) for frame in part["video"]]
            else:
                pictures.append((part["image"], EVIDENCE if part.get("evidence") else IMAGE))
    return pictures


def _parts(message: dict[str, Any], *types: str) -> list[dict[str, Any]]:
    return [part for part in message["content"] if part["type"] in types]
