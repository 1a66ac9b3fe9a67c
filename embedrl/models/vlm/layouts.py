"""Families whose inputs have a layout of their own: the patches of a batch in one picture, a prompt as a prefix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from embedrl.models.vlm.family import VLMFamily


class MiniCPM(VLMFamily):
    """MiniCPM-V 4.6: slices of a picture; the patches of a batch lie side by side in one long picture."""

    reads_video = True

    def taken_apart(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `VLMFamily.taken_apart`: a picture as wide as all patches becomes `[patches, colours, side, side]`."""
        pixels = {
            name: value[0].reshape(*value.shape[1:3], -1, value.shape[2]).permute(2, 0, 1, 3)
            for name, value in inputs.items()
            if name.startswith("pixel_values")
        }
        return {**inputs, **pixels}

    def put_together(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `VLMFamily.put_together`: the way back."""
        pixels = {
            name: value.permute(1, 2, 0, 3).flatten(2)[None]
            for name, value in inputs.items()
            if name.startswith("pixel_values")
        }
        return {**inputs, **pixels}

    def picture_tokens(self, processor: Any, size: tuple[int, int]) -> int:
        """See `VLMFamily.picture_tokens`."""
        images = processor.image_processor
        edge = images.scale_resolution // (images.patch_size * (2 if images.downsample_mode == "4x" else 4))
        grid = images.get_sliced_grid(size[::-1], images.max_slice_nums, images.scale_resolution)
        return int(edge**2 * (1 + (grid[0] * grid[1] if grid and images.slice_mode else 0)))


class Molmo2(VLMFamily):
    """Molmo 2: crops, and for each token the patches that it is pooled from, counted through the whole batch.

    It reads pictures or videos, never both, and reads tokens that its head has no row for.
    """

    image_mark = "<im_patch>"

    def taken_apart(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `VLMFamily.taken_apart`: patches are counted in each picture."""
        return _shifted(inputs, -1)

    def put_together(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `VLMFamily.put_together`: patches are counted through all pictures."""
        return _shifted(inputs, 1)


def _shifted(inputs: Mapping[str, Tensor], sign: int) -> dict[str, Tensor]:
    """Molmo 2's inputs with the numbers of a picture's patches raised by how many come before it, or lowered."""
    if "image_token_pooling" not in inputs:
        return dict(inputs)
    crops, grids, pooled = inputs["image_num_crops"], inputs["image_grids"], inputs["image_token_pooling"]
    before = (crops.cumsum(0) - crops) * inputs["pixel_values"].shape[1]
    tokens = grids[:, 0] * grids[:, 1] + grids[:, 2] * grids[:, 3]  # of the whole picture, and of its crops
    shift = sign * before.repeat_interleave(tokens)[:, None]
    return {**inputs, "image_token_pooling": torch.where(pooled < 0, pooled, pooled + shift)}


class PaliGemma(VLMFamily):
    """PaliGemma reads its prompt in both directions and writes after it; its own checkpoints have no chat template.

    Its processor reads no text without a picture: such a text is laid out here as the processor does after one.
    """

    template = (
        "{%- for message in messages -%}"
        "{%- if message.content is string -%}{{- message.content -}}"
        "{%- else -%}{%- for part in message.content -%}"
        "{{- '<image>' if part.type == 'image' else part.text -}}"
        "{%- endfor -%}{%- endif -%}{%- endfor -%}"
    )
    reply_type = 1
    ends_at_emb = False  # its processor ends every prompt with a newline, which `<emb>` sees

    def read(self, processor: Any, text: str, images: Sequence[Image], options: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `VLMFamily.read`."""
        if images:
            made = processor(text=[text], images=[list(images)], return_tensors="pt", **options)
            return {name: value for name, value in made.items() if name != "labels"}
        tokenizer = processor.tokenizer
        made = tokenizer([f"{tokenizer.bos_token}{text}\n"], add_special_tokens=False, return_tensors="pt")
        return {**made, "token_type_ids": torch.zeros_like(made["input_ids"])}


class EmbeddingGemma(VLMFamily):
    """EmbeddingGemma 2 reads what stands in a chat, without turns; the token that closes it has no meaning there."""

    reads_video = True
    ends_at_emb = False
    template = (
        "{%- for message in messages -%}{%- if message.role != 'assistant' -%}"
        "{%- if message.content is string -%}{{- message.content -}}"
        "{%- else -%}{%- for part in message.content -%}"
        "{{- {'image': '<|image|>', 'video': '<|video|>'}[part.type] if part.type != 'text' else part.text -}}"
        "{%- endfor -%}{%- endif -%}{%- endif -%}{%- endfor -%}"
    )
