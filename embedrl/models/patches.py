"""Pictures and videos → patches: what chats need to know of them at once, their pixels when a batch is made."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature
from transformers.video_utils import VideoMetadata

from embedrl.data.inputs import ModelInputs

IMAGE, VIDEO = 1, 2
"""What `mm_token_type_ids` calls the tokens of pictures and of videos."""
VISUAL = {IMAGE: ("image_grid_thw", "pixel_values"), VIDEO: ("video_grid_thw", "pixel_values_videos")}
"""For each kind, the names of the grids and of the patches among a network's inputs."""


@dataclass(frozen=True, slots=True, eq=False)
class Visual:
    """A picture or a video; chats that show the same one hold the same object.

    Attributes:
        grid: Patches in time, height and width, `[3]`.
        placeholder: The text that stands for it.
        tokens: How many of the text's tokens are replaced by what the vision tower makes of it.
        pixels: Makes it at the size at which it enters the model, uint8: `[3, height, width]`, or
            `[frames, 3, height, width]`.
        metadata: Times of a video's frames.
    """

    grid: Tensor
    placeholder: str
    tokens: int
    pixels: Callable[[], Tensor]
    metadata: VideoMetadata | None = None

    def shows_the_same(self, other: Visual) -> bool:
        """Whether the vision tower gets the same of both."""
        same = self is other
        return same or (torch.equal(self.grid, other.grid) and torch.equal(self.pixels(), other.pixels()))


Shown = Mapping[int, Sequence[Visual]]
"""Pictures and videos by kind, in the order of their tokens."""
Patches = dict[Visual, Tensor]
"""The patches of each distinct one, `[patches, dim]`."""


@dataclass
class Visuals:
    """Collects the pictures and videos of chats in the order of their tokens, and processes distinct ones once.

    Attributes:
        processor: A `Qwen3VLProcessor`.
        shown: What has been added, every occurrence.
    """

    processor: Any
    shown: dict[int, list[Visual]] = field(default_factory=lambda: {IMAGE: [], VIDEO: []})
    _known: dict[Hashable, Visual] = field(default_factory=dict)

    def add_image(self, key: Hashable, size: tuple[int, int], pixels: Callable[[], Tensor]) -> None:
        """Add a picture.

        Args:
            key: Equal for what need not be processed again.
            size: Height and width at which it enters the model.
            pixels: See `Visual`.
        """
        if key not in self._known:
            grid = torch.tensor([1, *(side // self.processor.image_processor.patch_size for side in size)])
            words = self.processor.replace_image_token(BatchFeature({"image_grid_thw": grid[None]}), 0)
            self._known[key] = Visual(grid, words, self._tokens(grid), pixels)
        self.shown[IMAGE].append(self._known[key])

    def add_video(
        self, key: Hashable, size: tuple[int, int], frames: int, fps: float, pixels: Callable[[], Tensor]
    ) -> None:
        """Add a video.

        Args:
            key: As for `add_image`.
            size: Height and width at which its frames enter the model.
            frames: Number of frames.
            fps: Frames per second at which they were sampled.
            pixels: See `Visual`.
        """
        if key not in self._known:
            processor = self.processor.video_processor
            times = -(-frames // processor.temporal_patch_size)
            grid = torch.tensor([times, *(side // processor.patch_size for side in size)])
            metadata = VideoMetadata(total_num_frames=frames, fps=fps, frames_indices=list(range(frames)))
            made = BatchFeature({"video_grid_thw": grid[None], "video_metadata": [metadata]})
            words = self.processor.replace_video_token(made, 0)
            self._known[key] = Visual(grid, words, self._tokens(grid), pixels, metadata)
        self.shown[VIDEO].append(self._known[key])

    def process(self, shown: Shown, ready: Patches | None = None) -> Patches:
        """The patches of pictures and videos, each distinct one being processed once.

        Args:
            shown: The pictures and videos.
            ready: Patches that are there already: those of `shown` among them are taken from here.
        """
        known = ready or {}
        # Copies: a part of a tensor would keep all of it in memory.
        patches = {v: known[v].clone() for v in dict.fromkeys(v for vs in shown.values() for v in vs) if v in known}
        for kind, (grids, name) in VISUAL.items():
            new = [visual for visual in dict.fromkeys(shown[kind]) if visual not in patches]
            if not new:
                continue
            made = self._process(kind, new)
            assert made[grids].tolist() == [visual.grid.tolist() for visual in new]
            parts = torch.split(made[name], made[grids].prod(1).tolist())
            patches |= zip(new, parts, strict=True)
        return patches

    def _process(self, kind: int, visuals: Sequence[Visual]) -> Any:
        pixels = [visual.pixels() for visual in visuals]
        if kind == IMAGE:
            return self.processor.image_processor(pixels, do_resize=False, return_tensors="pt")
        return self.processor.video_processor(
            pixels,
            do_resize=False,
            do_sample_frames=False,
            video_metadata=[visual.metadata for visual in visuals],
            return_metadata=True,
            return_tensors="pt",
        )

    def _tokens(self, grid: Tensor) -> int:
        return int(grid.prod()) // int(self.processor.image_processor.merge_size) ** 2


def visual_inputs(shown: Shown, patches: Patches) -> ModelInputs:
    """The grids and patches as a network takes them."""
    inputs: ModelInputs = {}
    for kind, (grids, pixels) in VISUAL.items():
        if items := shown[kind]:
            inputs |= {grids: torch.stack([v.grid for v in items]), pixels: torch.cat([patches[v] for v in items])}
    return inputs
