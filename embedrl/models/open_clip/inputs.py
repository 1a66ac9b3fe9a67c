"""Chats → inputs of a two-tower model. Holds no weights, so it pickles into loader workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from embedrl.data.images import check_size
from embedrl.data.inputs import ModelInputs
from embedrl.data.render import SUMMARIZE
from embedrl.errors import DataError
from embedrl.types import Chat

IMAGE, EVIDENCE, FRAME = 0, 1, 2
"""The groups of pictures of a side, as `pixel_group` numbers them."""


class OpenClipPreprocessor:
    """Turns chats into the inputs of `OpenClipBackbone`.

    The inputs of one micro-batch are packed: a text tower sees only the rows that have a text, an image tower all
    pictures of all rows, and index tensors say where each belongs.

    | key | shape | what |
    |---|---|---|
    | `rows` | `[batch]` | 0, 1, 2 ...: says how many rows there are |
    | `text_ids` | `[texts, context]` | token ids |
    | `text_row` | `[texts]` | the row of each text |
    | `pixel_values` | `[pictures, 3, height, width]` | normalised pixels |
    | `pixel_row` | `[pictures]` | the row of each picture |
    | `pixel_group` | `[pictures]` | 0 picture, 1 evidence, 2 video frame |

    Args:
        tokenizer: Texts → token ids `[texts, context]`, cut to the context length.
        transform: Picture → normalised pixels `[3, height, width]`.
        context_length: Tokens in a row of `text_ids`.
        size: Height and width of the pictures the model reads, in pixels.
    """

    def __init__(
        self,
        tokenizer: Callable[[list[str]], Tensor],
        transform: Callable[[Image], Tensor],
        context_length: int,
        size: tuple[int, int],
    ) -> None:
        self.tokenizer = tokenizer
        self.transform = transform
        self.context_length = context_length
        self.size = size

    def __call__(self, chats: Sequence[Chat]) -> ModelInputs:
        """Process one micro-batch.

        Raises:
            DataError: If a chat holds neither a text nor a picture, or a picture is too large or too narrow.
        """
        texts, text_row = [], []
        pixels, pixel_row, pixel_group = [], [], []
        for row, chat in enumerate(chats):
            # Far more than the tower reads: some tokenizers take hours for a word of a million letters.
            text, pictures = read_text(chat)[: self.context_length * 64], read_pictures(chat)
            if not text and not pictures:
                raise DataError(f"row {row} of the micro-batch holds neither a text nor a picture: give it one")
            if text:
                texts.append(text)
                text_row.append(row)
            for picture, group in pictures:
                # The short side becomes `size`: without a bound the long one becomes as long as memory lasts.
                check_size(*picture.size, f"a picture of row {row} of the micro-batch", cure="shrink it")
                pixels.append(self.transform(picture))
                pixel_row.append(row)
                pixel_group.append(group)
        return {
            "rows": torch.arange(len(chats)),
            "text_ids": self.tokenizer(texts) if texts else torch.zeros(0, self.context_length, dtype=torch.long),
            "text_row": torch.tensor(text_row, dtype=torch.long),
            "pixel_values": torch.stack(pixels) if pixels else torch.zeros(0, 3, *self.size),
            "pixel_row": torch.tensor(pixel_row, dtype=torch.long),
            "pixel_group": torch.tensor(pixel_group, dtype=torch.long),
        }

    def length(self, chat: Chat) -> int:
        """The chat's cost in tokens: a picture counts as a ViT-B/32 would cut it, a word as one token."""
        patches = self.size[0] * self.size[1] // 32**2
        words = len(read_text(chat).split())
        return len(read_pictures(chat)) * patches + min(words, self.context_length)


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
