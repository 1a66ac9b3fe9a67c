"""Pictures and videos → patches: each distinct one is processed once, however many chats show it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.video_utils import VideoMetadata

from embedrl.data.inputs import ModelInputs

IMAGE, VIDEO = 1, 2
"""What `mm_token_type_ids` calls the tokens of pictures and of videos."""
VISUAL = {IMAGE: ("image_grid_thw", "pixel_values"), VIDEO: ("video_grid_thw", "pixel_values_videos")}
"""For each kind, the names of the grids and of the patches among a network's inputs."""


@dataclass(frozen=True, slots=True)
class Patches:
    """What the vision tower gets of a picture or a video.

    Attributes:
        grid: Patches in time, height and width, `[3]`.
        pixels: The patches, `[patches, dim]`; chats that show the same picture hold the same tensor.
        placeholder: The text that stands for it.
        tokens: How many of the text's tokens are replaced by what the vision tower makes of it.
    """

    grid: Tensor
    pixels: Tensor
    placeholder: str
    tokens: int


@dataclass
class Visuals:
    """Collects the pictures and videos of chats in the order of their tokens, then processes the distinct ones.

    Attributes:
        processor: A `Qwen3VLProcessor`.
    """

    processor: Any
    _order: dict[int, list[Hashable]] = field(default_factory=lambda: {IMAGE: [], VIDEO: []})
    _pixels: dict[int, dict[Hashable, Tensor]] = field(default_factory=lambda: {IMAGE: {}, VIDEO: {}})
    _metadata: list[VideoMetadata] = field(default_factory=list)

    def add_image(self, key: Hashable, pixels: Callable[[], Tensor]) -> None:
        """Add a picture.

        Args:
            key: Equal for what need not be processed again.
            pixels: Makes it as `[3, height, width]`, uint8, at the size at which it enters the model.
        """
        self._order[IMAGE].append(key)
        if key not in self._pixels[IMAGE]:
            self._pixels[IMAGE][key] = pixels()

    def add_video(self, key: Hashable, frames: Callable[[], Tensor], fps: float) -> None:
        """Add a video.

        Args:
            key: As for `add_image`.
            frames: Makes it as `[frames, 3, height, width]`, uint8.
            fps: Frames per second at which the frames were sampled.
        """
        self._order[VIDEO].append(key)
        if key not in self._pixels[VIDEO]:
            made = self._pixels[VIDEO][key] = frames()
            indices = list(range(len(made)))
            self._metadata.append(VideoMetadata(total_num_frames=len(made), fps=fps, frames_indices=indices))

    def patches(self) -> dict[int, list[Patches]]:
        """The patches of every occurrence, by kind."""
        made_patches: dict[int, dict[Hashable, Patches]] = {IMAGE: {}, VIDEO: {}}
        if images := self._pixels[IMAGE]:
            made = self.processor.image_processor(list(images.values()), do_resize=False, return_tensors="pt")
            made_patches[IMAGE] = self._split(IMAGE, made, self.processor.replace_image_token)
        if videos := self._pixels[VIDEO]:
            made = self.processor.video_processor(
                list(videos.values()),
                do_resize=False,
                do_sample_frames=False,
                video_metadata=self._metadata,
                return_metadata=True,
                return_tensors="pt",
            )
            made_patches[VIDEO] = self._split(VIDEO, made, self.processor.replace_video_token)
        return {kind: [made_patches[kind][key] for key in keys] for kind, keys in self._order.items()}

    def _split(self, kind: int, made: Any, replace: Callable[[Any, int], str]) -> dict[Hashable, Patches]:
        grids, pixels = (made[name] for name in VISUAL[kind])
        parts = torch.split(pixels, grids.prod(1).tolist())
        merged = self.processor.image_processor.merge_size**2
        rows = enumerate(zip(self._pixels[kind], grids, parts, strict=True))
        return {key: Patches(grid, part, replace(made, i), len(part) // merged) for i, (key, grid, part) in rows}


def visual_inputs(patches: Mapping[int, Sequence[Patches]]) -> ModelInputs:
    """The grids and patches as a network takes them."""
    inputs: ModelInputs = {}
    for kind, (grids, pixels) in VISUAL.items():
        if items := patches[kind]:
            inputs |= {grids: torch.stack([p.grid for p in items]), pixels: torch.cat([p.pixels for p in items])}
    return inputs
