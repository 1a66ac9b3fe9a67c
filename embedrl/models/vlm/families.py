"""What differs between families of vision-language models; a family without a class here goes the common path."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.models.ovis2.image_processing_ovis2 import get_min_tile_covering_grid
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.models.vlm.family import VLMFamily
from embedrl.models.vlm.layouts import EmbeddingGemma, MiniCPM, Molmo2, PaliGemma


class PatchGrids(VLMFamily):
    """Pictures of any size and videos, cut into a grid of patches: the Qwen line, ERNIE 4.5."""

    reads_video = True

    def set_pixels(self, processor: Any, budget: PixelBudget) -> None:
        """See `VLMFamily.set_pixels`."""
        processor.image_processor.size = {"shortest_edge": budget.min_pixels, "longest_edge": budget.max_pixels}


class PixelCoordinates(PatchGrids):
    """Qwen2.5-VL points in pixels of the resized picture."""

    boxes = "pixels"

    def picture_size(self, processor: Any, size: tuple[int, int]) -> tuple[float, float]:
        """See `VLMFamily.picture_size`."""
        images = processor.image_processor
        factor, pixels = images.patch_size * images.merge_size, images.size
        height, width = smart_resize(size[1], size[0], factor, pixels["shortest_edge"], pixels["longest_edge"])
        return float(width), float(height)


class Glm(PatchGrids):
    """GLM-4V counts a picture's pixels once for each of the two frames that it makes of it.

    It marks the frames of a video by the token of pictures and cannot tell both apart in a batch.
    """

    reads_video = False

    def set_pixels(self, processor: Any, budget: PixelBudget) -> None:
        """See `VLMFamily.set_pixels`."""
        steps = processor.image_processor.temporal_patch_size
        super().set_pixels(processor, PixelBudget(steps * budget.min_pixels, steps * budget.max_pixels))


class PicturesByRow(VLMFamily):
    """SmolVLM and Idefics: every chat has a row of tiles, filled up with black ones that are dropped."""

    pictures_by_row = True

    def picture_tokens(self, processor: Any, size: tuple[int, int]) -> int:
        """See `VLMFamily.picture_tokens`."""
        tiles, _, _ = processor.image_processor.get_number_of_image_patches(size[1], size[0], {})
        return int(max(tiles, 1) * processor.image_seq_len)  # 0 if it is not cut


class Ovis2(VLMFamily):
    """A text says `<image>`, and the processor writes `<IMG_ATOM>` in its place."""

    image_mark = "<IMG_ATOM>"
    projector = r"vision_tower\.head_linear"

    def picture_tokens(self, processor: Any, size: tuple[int, int]) -> int:
        """See `VLMFamily.picture_tokens`."""
        images = processor.image_processor
        tiles = 1
        if images.crop_to_patches:
            rows, columns = get_min_tile_covering_grid(size[::-1], images.size["height"], images.max_patches)
            tiles = rows * columns
        return int(processor.image_seq_length * (tiles + (tiles > 1)))


class InternVL(VLMFamily):
    """Tiles, and one tile for each frame of a video."""

    reads_video = True


class Gemma4(VLMFamily):
    """Videos with timestamps; a table of embeddings for every layer that must grow with the vocabulary."""

    reads_video = True

    def grow(self, network: Any, row: int) -> None:
        """See `VLMFamily.grow`: the new row is the mean of the others."""
        decoder = network.base_model.get_decoder()
        table = getattr(decoder, "embed_tokens_per_layer", None)
        if table is None:
            return
        with torch.no_grad():
            mean = table.weight[:row].float().mean(0, keepdim=True).to(table.weight.dtype)
            if row >= table.num_embeddings:
                new = mean.expand(row + 1 - table.num_embeddings, -1)
                table.weight = nn.Parameter(torch.cat([table.weight, new]), requires_grad=table.weight.requires_grad)
                table.num_embeddings = row + 1
                network.config.text_config.vocab_size_per_layer_input = row + 1
            table.weight[row] = mean[0]  # transformers gives a table that it has resized itself a random row


class Lfm2(VLMFamily):
    """Tiles of up to a number of tokens; points in 0..1."""

    boxes = "unit"

    def set_pixels(self, processor: Any, budget: PixelBudget) -> None:
        """See `VLMFamily.set_pixels`; a larger picture is still cut into tiles where `do_image_splitting` says so."""
        images = processor.image_processor
        pixels = (images.encoder_patch_size * images.downsample_factor) ** 2
        images.min_image_tokens = max(1, budget.min_pixels // pixels)
        images.max_image_tokens = max(images.min_image_tokens, budget.max_pixels // pixels)

    def picture_tokens(self, processor: Any, size: tuple[int, int]) -> int:
        """See `VLMFamily.picture_tokens`."""
        images = processor.image_processor
        tokens = size[0] * size[1] // (images.encoder_patch_size * images.downsample_factor) ** 2
        return int(min(max(tokens, images.min_image_tokens), images.max_image_tokens * images.max_tiles))


class Refused(VLMFamily):
    """Families that read a picture beside the text (cross-attention) or write with a decoder of its own."""

    refused = "it reads pictures beside the text, not in it"


FAMILIES: dict[str, VLMFamily] = {
    **dict.fromkeys(
        ("qwen2_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "ernie4_5_vl_moe"), PatchGrids()
    ),
    "qwen2_5_vl": PixelCoordinates(),
    **dict.fromkeys(("glm4v", "glm4v_moe", "glm46v"), Glm()),
    **dict.fromkeys(("smolvlm", "idefics2", "idefics3"), PicturesByRow()),
    "internvl": InternVL(),
    "ovis2": Ovis2(),
    "paligemma": PaliGemma(),
    **dict.fromkeys(("minicpmv4_6", "minicpmv4_7"), MiniCPM()),
    "molmo2": Molmo2(),
    "embedding_gemma2": EmbeddingGemma(),
    "gemma4": Gemma4(),
    "lfm2_vl": Lfm2(),
    **dict.fromkeys(("mllama", "evolla", "idefics", "blip", "git", "pix2struct", "udop", "florence2"), Refused()),
}
"""Model type → what is different in it."""


def family_of(model_type: str) -> VLMFamily:
    """The family of a model type; the common path if it has no class of its own."""
    return FAMILIES.get(model_type, VLMFamily())
