"""The inputs of a model: rows of tokens and blocks of pixels, from pixel budgets and assumptions about the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from embedrl.errors import ConfigError
from embedrl.models.qwen_vl.backbone import QwenVL
from embedrl.models.qwen_vl.loading import is_local
from embedrl.models.qwen_vl.preprocess import PixelBudget

CHAT = 24
"""Tokens that the chat template and the line before `<emb>` add."""
STAMP = 8
"""Tokens between two time steps of a video: a timestamp and two markers."""


@dataclass(frozen=True)
class Assumptions:
    """What a plan assumes of the data, which it does not read: one half of a pair has a picture or a video.

    Attributes:
        text: Tokens of a side's own text.
        tcot: Tokens of a T-CoT (the length at which the paper's level off in EG-RL).
        instruction: Tokens of the Reasoner's instruction.
        evidence: Crops of a picture, or key frames of a video.
        frames: Frames of a video.
        video_share: Share of the pairs that have a video, not a picture.
        fill: Pixels of a picture, crop or frame as a share of the maximum of its budget.
        tflops: Speed of a device in 10^12 operations per second; used for times.
    """

    text: int = 64
    tcot: int = 240
    instruction: int = 300
    evidence: int = 2
    frames: int = 8
    video_share: float = 0.25
    fill: float = 1.0
    tflops: float = 300.0

    def __post_init__(self) -> None:
        if not 0 <= self.video_share <= 1 or not 0 < self.fill <= 1 or self.tflops <= 0:
            raise ConfigError(f"assume {self}: video_share is in 0..1, fill in 0..1 and above 0, tflops above 0")
        if min(self.text, self.tcot, self.instruction, self.evidence) < 0 or self.frames < 1:
            raise ConfigError(f"assume {self}: counts are 0 or more, frames 1 or more")


@dataclass(frozen=True)
class TokenRow:
    """One row of a batch.

    Attributes:
        length: Tokens, those of pixels included.
        blocks: Patches of each block of pixels that attends to itself: one per picture, one per time step of a video.
    """

    length: int
    blocks: tuple[int, ...] = ()

    def __add__(self, other: TokenRow) -> TokenRow:
        return TokenRow(self.length + other.length, self.blocks + other.blocks)

    def times(self, count: int) -> TokenRow:
        """The row repeated `count` times, as one row."""
        return TokenRow(self.length * count, self.blocks * count)


Mix = Sequence[tuple[TokenRow, float]]
"""Rows and the number of each, which may be fractional."""


class Sides:
    """The sides of pairs as rows.

    Args:
        model: The model that reads them; its weights are not needed.
        config: Its checkpoint's configuration.
        assume: What to assume of them.

    Raises:
        ConfigError: If a budget is the checkpoint's own, and that is not on this machine.
    """

    def __init__(self, model: QwenVL, config: Any, assume: Assumptions) -> None:
        vision: Any = config.vision_config
        self.assume, self.merge, self.steps = assume, vision.spatial_merge_size**2, vision.temporal_patch_size
        self.pixels = int(vision.patch_size * vision.spatial_merge_size) ** 2
        if is_local(model.path):
            known = model.preprocessor()
            self.images, self.evidence, self.frames = known.images, known.evidence, known.frames
        elif model.image_pixels is None or model.frame_pixels is None:
            raise ConfigError(f"{model.path}: give image_pixels and frame_pixels; the checkpoint's own are not at hand")
        else:
            self.images, self.frames = model.image_pixels, model.frame_pixels
            self.evidence = model.evidence_pixels or model.image_pixels

    def _tokens(self, budget: PixelBudget) -> int:
        return max(1, round(max(budget.min_pixels, budget.max_pixels * self.assume.fill)) // self.pixels)

    def _pictures(self, budget: PixelBudget, count: int) -> TokenRow:
        tokens = self._tokens(budget)
        return TokenRow(tokens + 2, (tokens * self.merge,)).times(count)

    def words(self, count: int = 0) -> TokenRow:
        """A side's own text in a chat, plus `count` tokens."""
        return TokenRow(CHAT + self.assume.text + count)

    def picture(self) -> TokenRow:
        """A picture at its budget."""
        return self._pictures(self.images, 1)

    def video(self) -> TokenRow:
        """A video: its time steps, each with a timestamp."""
        tokens = self._tokens(self.frames)
        return TokenRow(tokens + STAMP, (tokens * self.merge,)).times(-(-self.assume.frames // self.steps))

    def crops(self) -> TokenRow:
        """The evidence of one T-CoT about a picture or a video."""
        return self._pictures(self.evidence, self.assume.evidence)

    def pair(self, words: int, evidence: bool = False) -> Mix:
        """Both sides of a mean pair: one a text, the other a picture or a video with a text.

        Args:
            words: Tokens of each side in addition to its own text, such as a T-CoT's.
            evidence: Whether crops or key frames are part of it.
        """
        text, video = self.words(words), self.assume.video_share
        seen = [self.picture() + text, self.video() + text]
        seen = [row + self.crops() for row in seen] if evidence else seen
        return [(text, 1.0), (seen[0], 1.0 - video), (seen[1], video)]


def tokens(mix: Mix) -> float:
    """Tokens of all rows."""
    return sum(row.length * count for row, count in mix)


def longest(mix: Mix) -> TokenRow:
    """The longest of the rows whose number is not 0."""
    return max((row for row, count in mix if count), key=lambda row: row.length)
