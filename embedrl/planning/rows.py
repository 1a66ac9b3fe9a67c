"""The inputs of a model: rows of tokens and pictures, from pixel budgets and assumptions about the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from embedrl.errors import ConfigError
from embedrl.models.qwen_vl.loading import is_local
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.planning.pictures import PictureReader, PlannedPicture
from embedrl.planning.processors import pixels_of_a_token

CHAT = 24
"""Tokens that the chat template and the line before `<emb>` add."""


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
        side: Width and height of a picture, crop or frame in pixels, where there is no budget.
        tflops: Speed of a device in 10^12 operations per second; used for times.
    """

    text: int = 64
    tcot: int = 240
    instruction: int = 300
    evidence: int = 2
    frames: int = 8
    video_share: float = 0.25
    fill: float = 1.0
    side: int = 1024
    tflops: float = 300.0

    def __post_init__(self) -> None:
        if not 0 <= self.video_share <= 1 or not 0 < self.fill <= 1 or self.tflops <= 0:
            raise ConfigError(f"assume {self}: video_share is in 0..1, fill in 0..1 and above 0, tflops above 0")
        if min(self.text, self.tcot, self.instruction, self.evidence) < 0 or min(self.frames, self.side) < 1:
            raise ConfigError(f"assume {self}: counts are 0 or more, frames and side 1 or more")


@dataclass(frozen=True)
class TokenRow:
    """One row of a batch.

    Attributes:
        length: Tokens, those of pictures included.
        pictures: Its pictures and videos.
    """

    length: int
    pictures: tuple[PlannedPicture, ...] = ()

    def __add__(self, other: TokenRow) -> TokenRow:
        return TokenRow(self.length + other.length, self.pictures + other.pictures)

    def times(self, count: int) -> TokenRow:
        """The row repeated `count` times, as one row."""
        return TokenRow(self.length * count, self.pictures * count)


Mix = Sequence[tuple[TokenRow, float]]
"""Rows and the number of each, which may be fractional."""


class Sides:
    """The sides of pairs as rows.

    Args:
        model: The model that reads them, on the meta device.
        compute: Bytes of a number in its forward pass.
        assume: What to assume of them.

    Raises:
        ConfigError: If a budget is the checkpoint's own, and that is not on this machine.
    """

    def __init__(self, model: Any, compute: int, assume: Assumptions) -> None:
        self.assume, self.reader = assume, PictureReader(model, compute)
        self.pixels = pixels_of_a_token(model)
        budgets = _budgets(model)
        self.images, self.evidence, self.frames = (self._size(budget) for budget in budgets)

    def _size(self, budget: PixelBudget | None) -> tuple[int, int]:
        """Width and height of a picture that fills its budget: whole tokens, as near to a square as can be."""
        if budget is None or not self.pixels:
            return self.assume.side, self.assume.side
        tokens = max(1, round(max(budget.min_pixels, budget.max_pixels * self.assume.fill)) // self.pixels)
        while True:
            high = max(n for n in range(1, math.isqrt(tokens) + 1) if tokens % n == 0)
            if tokens // high <= 2 * high:
                edge = math.isqrt(self.pixels)
                return tokens // high * edge, high * edge
            tokens -= 1

    def _row(self, picture: PlannedPicture) -> TokenRow:
        return TokenRow(picture.tokens, (picture,))

    def words(self, count: int = 0) -> TokenRow:
        """A side's own text in a chat, plus `count` tokens."""
        return TokenRow(CHAT + self.assume.text + count)

    def picture(self) -> TokenRow:
        """A picture at its budget."""
        return self._row(self.reader.read("image", self.images))

    def video(self) -> TokenRow:
        """A video: its time steps, each with a timestamp; or its frames as pictures."""
        return self._row(self.reader.read("video", self.frames, self.assume.frames))

    def crops(self) -> TokenRow:
        """The evidence of one T-CoT about a picture or a video."""
        return self._row(self.reader.read("evidence", self.evidence)).times(self.assume.evidence)

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


def _budgets(model: Any) -> tuple[PixelBudget | None, PixelBudget | None, PixelBudget | None]:
    """Of pictures, of evidence and of frames; None where the model has none."""
    if not hasattr(model, "frame_pixels"):
        budget = model.settings.image_pixels
        return budget, budget, budget
    if is_local(model.path):
        known = model.preprocessor()
        return known.images, known.evidence, known.frames
    if model.image_pixels is None or model.frame_pixels is None:
        raise ConfigError(f"{model.path}: give image_pixels and frame_pixels; the checkpoint's own are not at hand")
    return model.image_pixels, model.evidence_pixels or model.image_pixels, model.frame_pixels
