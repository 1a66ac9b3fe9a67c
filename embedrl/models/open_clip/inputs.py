"""Chats → inputs of an open_clip model. Holds no weights, so it pickles into loader workers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL.Image import Image
from torch import Tensor

from embedrl.data.inputs import ModelInputs
from embedrl.models.two_towers.inputs import PackedPreprocessor


class OpenClipPreprocessor(PackedPreprocessor):
    """Turns chats into the inputs of `OpenClipBackbone`: see `PackedPreprocessor`, and these.

    | key | shape | what |
    |---|---|---|
    | `text_ids` | `[texts, context]` | token ids |
    | `pixel_values` | `[pictures, 3, height, width]` | normalised pixels |

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
        super().__init__(context_length)
        self.tokenizer = tokenizer
        self.transform = transform
        self.size = size

    @property
    def patches(self) -> int:
        """See `PackedPreprocessor.patches`: as a ViT-B/32 would cut a picture."""
        return self.size[0] * self.size[1] // 32**2

    def read_texts(self, texts: list[str]) -> ModelInputs:
        """See `PackedPreprocessor.read_texts`."""
        return {"text_ids": self.tokenizer(texts) if texts else torch.zeros(0, self.context_length, dtype=torch.long)}

    def read_images(self, images: list[Image]) -> ModelInputs:
        """See `PackedPreprocessor.read_images`."""
        pixels = [self.transform(image) for image in images]
        return {"pixel_values": torch.stack(pixels) if pixels else torch.zeros(0, 3, *self.size)}
