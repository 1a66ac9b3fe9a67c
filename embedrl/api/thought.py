"""What a Reasoner wrote about an item: its T-CoT, what it points at, and a picture of both."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from embedrl.tcot.parser import parse
from embedrl.tcot.schema import Cues, ParseResult, Problem, TCoT
from embedrl.types import Modality, Side

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Thought:
    """A T-CoT with the item that it is about. Notebooks show it as `show()` draws it.

    Attributes:
        side: The item, with the reply as its T-CoT.
    """

    side: Side

    @property
    def text(self) -> str:
        """The whole reply."""
        return self.side.tcot

    @cached_property
    def _read(self) -> ParseResult:
        return parse(self.side.tcot, self.side.modality, len(self.side.frames) or None)

    @property
    def tcot(self) -> TCoT:
        """The reply as it can be read: `thinking`, `rethink`, `answer`, `cues`; what is missing is empty."""
        return self._read.tcot

    @property
    def answer(self) -> str:
        """The restatement made for retrieval; empty if there is none."""
        return self.tcot.answer

    @property
    def cues(self) -> Cues:
        """Keywords of a text, boxes in a picture (0..1000 of its width and height), key frames of a video (from 1)."""
        return self.tcot.cues

    @property
    def format_ok(self) -> bool:
        """Whether the reply follows the template exactly."""
        return self._read.ok

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What departs from the template."""
        return self._read.problems

    def evidence(self) -> list[Image] | list[str]:
        """What the reply points at: the keywords of a text; the crops or key frames, as an Embedder sees them.

        Raises:
            DataError: If a picture of the item is broken.
        """
        if self.side.modality is Modality.TEXT:
            return list(self.cues.text_keywords)
        from embedrl.visualization.evidence import evidence_of

        return evidence_of(self.side)

    def show(self) -> Image:
        """A picture: the item with its boxes or key frames, their crops, and the reply.

        Raises:
            DataError: If a picture of the item is broken.
        """
        from embedrl.visualization.evidence import draw_evidence

        return draw_evidence(self.side)

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        file = io.BytesIO()
        self.show().save(file, "PNG")
        return file.getvalue()
