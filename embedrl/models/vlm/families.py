"""What differs between families of vision-language models; a family without a class here goes the common path."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import torch
from torch import nn
from transformers.models.ovis2.image_processing_ovis2 import get_min_tile_covering_grid
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from embedrl.errors import ConfigError
from embedrl.models.lora import SCOPES, LoRAOptions
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.models.vlm.boxes import Coordinates


class VLMFamily:
    """The common path; a subclass says what is different in its family.

    Attributes:
        reads_video: Whether a video goes to its video processor; otherwise its frames are read as pictures.
        pictures_by_row: Whether `pixel_values` has a row for each chat, filled up with empty pictures.
        boxes: How it writes boxes.
        template: A chat template for checkpoints that have none.
        image_mark: The token at which the model reads pictures, where its processor names another one for texts.
        projector: Pattern of the modules inside the vision tower that map its features to the language model.
        refused: Why it cannot be used; empty if it can.
    """

    reads_video: ClassVar[bool] = False
    pictures_by_row: ClassVar[bool] = False
    boxes: ClassVar[Coordinates] = "thousand"
    template: ClassVar[str] = ""
    image_mark: ClassVar[str] = ""
    projector: ClassVar[str] = r"(.*\.)?(merger|deepstack_merger_list)(\..*)?"
    refused: ClassVar[str] = ""

    def set_pixels(self, processor: Any, budget: PixelBudget) -> None:
        """Write the budget of a picture into the processor.

        Raises:
            ConfigError: If the processor has no such notion.
        """
        name = type(processor.image_processor).__name__
        raise ConfigError(
            f"backbone.image_pixels: a {name} has no budget of pixels: leave it null, "
            "and set its own options with backbone.image_settings"
        )

    def vision_tower(self, core: Any) -> nn.Module | None:
        """The vision tower, None if there is none to be found.

        Args:
            core: The model without its LM head.
        """
        tower = core.get_encoder(modality="image")
        return tower if isinstance(tower, nn.Module) and tower is not core else None

    def grow(self, network: Any, row: int) -> None:
        """Called when the base has no row of a new token: give it to other tables than the embedding and the head."""

    def picture_tokens(self, processor: Any, size: tuple[int, int]) -> int:
        """About how many tokens a picture has.

        Args:
            processor: The processor.
            size: Width and height of the picture.

        Raises:
            ValueError: If it cannot be read.
        """
        count = getattr(processor, "_get_num_multimodal_tokens", None)
        return 256 if count is None else int(count(image_sizes=[size[::-1]])["num_image_tokens"][0])

    def picture_size(self, processor: Any, size: tuple[int, int]) -> tuple[float, float]:
        """Width and height at which a picture enters the model, for `boxes: pixels`.

        Args:
            processor: The processor.
            size: Width and height of the picture.

        Raises:
            ValueError: If it cannot be read.
        """
        return size


class PatchGrids(VLMFamily):
    """Pictures of any size and videos, cut into a grid of patches: the Qwen line."""

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


class PicturesAlone(VLMFamily):
    """PaliGemma's processor reads no text without a picture, so that a side of text alone has no vector."""

    refused = "its processor reads no text without a picture"


FAMILIES: dict[str, VLMFamily] = {
    **dict.fromkeys(("qwen2_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"), PatchGrids()),
    "qwen2_5_vl": PixelCoordinates(),
    **dict.fromkeys(("glm4v", "glm4v_moe", "glm46v"), Glm()),
    **dict.fromkeys(("smolvlm", "idefics2", "idefics3"), PicturesByRow()),
    "internvl": InternVL(),
    "ovis2": Ovis2(),
    "paligemma": PicturesAlone(),
    "gemma4": Gemma4(),
    "lfm2_vl": Lfm2(),
    **dict.fromkeys(("mllama", "evolla", "idefics", "blip", "git", "pix2struct", "udop", "florence2"), Refused()),
}
"""Model type → what is different in it."""


def family_of(model_type: str) -> VLMFamily:
    """The family of a model type; the common path if it has no class of its own."""
    return FAMILIES.get(model_type, VLMFamily())


def linear_layers(core: Any, family: VLMFamily, options: LoRAOptions) -> list[str]:
    """The names of the linear layers that LoRA adapts; the projector is what lies outside of decoder and towers.

    Args:
        core: The model without its LM head.
        family: Its family.
        options: The options, with their scope.

    Returns:
        Names inside `core`.

    Raises:
        ConfigError: If a part that the scope names has no linear layer, or holds experts whose weights are fused into
            one tensor.
    """
    decoder = core.get_decoder()
    places = {"language": decoder, "vision": family.vision_tower(core), "audio": core.get_encoder(modality="audio")}
    inside = {
        part: {id(module) for module in place.modules()}
        for part, place in places.items()
        if isinstance(place, nn.Module) and place is not core
    }
    layers: dict[str, list[str]] = {part: [] for part in (*SCOPES, "audio")}
    for name, module in core.named_modules():
        if isinstance(module, nn.Linear):
            part = next((part for part, modules in inside.items() if id(module) in modules), "projector")
            if part == "vision" and re.fullmatch(family.projector, name):
                part = "projector"
            layers[part].append(name)
            if part == "language" and re.search(r"att(n|ention)", name):
                layers["language-attention"].append(name)
    if "language" in options.parts and (fused := _fused_experts(decoder)):
        raise ConfigError(
            f"lora.scope language: the experts of {type(core).__name__} are fused into one tensor ({fused}), which has "
            "no adapter: use language-attention"
        )
    for part in options.scope.split("+"):
        if not layers.get({"merger": "projector"}.get(part, part), ["all-linear"]):
            raise ConfigError(f"lora.scope: {type(core).__name__} has no linear layer in its part {part!r}")
    return list(dict.fromkeys(name for part in options.parts for name in layers[part]))


def _fused_experts(decoder: nn.Module) -> str:
    """The first parameter that holds the weights of several experts, empty if none does."""
    return next((name for name, p in decoder.named_parameters() if p.ndim == 3 and "expert" in name), "")
