"""Chats → inputs of a two-tower model of transformers."""

from __future__ import annotations

import re
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from embedrl.data.inputs import ModelInputs
from embedrl.errors import DataError, said
from embedrl.models.two_towers.inputs import PackedPreprocessor
from embedrl.utils.reserved_words import escape, own_words

TEXT_PREFIX, IMAGE_PREFIX = "text.", "image."
"""What the inputs of `get_text_features` and `get_image_features` are called in a micro-batch, before their names."""


class TwoTowerPreprocessor(PackedPreprocessor):
    """Turns chats into the inputs of `TwoTowerBackbone`: see `PackedPreprocessor`, and what its processor makes.

    Every text is padded to the context length, as SigLIP was trained: a vector does not depend on its neighbours.

    | key | what |
    |---|---|
    | `text.input_ids` and so on | what the tokenizer makes of the texts; absent if there is none |
    | `image.pixel_values` and so on | what the image processor makes of the pictures; absent if there is none |

    Args:
        processor: The checkpoint's processor.
        context_length: Tokens in a text, at most; what is longer is cut off.
    """

    def __init__(self, processor: Any, context_length: int) -> None:
        super().__init__(context_length)
        self.processor = processor
        # Some tokenizers look for their special tokens after they have made all letters small.
        self.reserved = re.compile(own_words(processor.tokenizer).pattern, re.IGNORECASE)
        self._patches = 0

    @property
    def patches(self) -> int:
        """See `PackedPreprocessor.patches`: those of NaFlex, or as a tower would cut a picture by 16 pixels."""
        if not self._patches:
            pixels = self.read_images([Image.new("RGB", (64, 64))])[f"{IMAGE_PREFIX}pixel_values"]
            self._patches = pixels.shape[1] if pixels.ndim == 3 else max(1, pixels[0, 0].numel() // 16**2)
        return self._patches

    def read_texts(self, texts: list[str]) -> ModelInputs:
        """See `PackedPreprocessor.read_texts`."""
        if not texts:
            return {}
        made = self.processor.tokenizer(
            [escape(text, self.reserved) for text in texts],
            padding="max_length",
            truncation=True,
            max_length=self.context_length,
            return_tensors="pt",
        )
        return _named(TEXT_PREFIX, made)

    def read_images(self, images: list[Image.Image]) -> ModelInputs:
        """See `PackedPreprocessor.read_images`.

        Raises:
            DataError: If the image processor cannot read a picture.
        """
        if not images:
            return {}
        try:
            # One by one: some processors resize pictures of one size together, which rounds in another way.
            rows = [self.processor.image_processor(images=[image], return_tensors="pt") for image in images]
        except (ValueError, IndexError, ZeroDivisionError, RuntimeError) as error:
            sizes = ", ".join(f"{image.width}x{image.height}" for image in images)
            raise DataError(f"a picture cannot be processed: {said(error)}; sizes {sizes}: leave it out") from error
        return {name: torch.cat([row[name] for row in map(_images, rows)]) for name in _images(rows[0])}


def _images(made: Any) -> dict[str, Tensor]:
    return _named(IMAGE_PREFIX, made)


def _named(prefix: str, made: Any) -> dict[str, Tensor]:
    return {f"{prefix}{name}": torch.as_tensor(value) for name, value in made.items()}
