"""The rewards of an inserter: what a reply that places pictures in an answer is worth, one piece each."""

from __future__ import annotations

from typing import Literal

from embedrl.errors import ConfigError
from embedrl.metrics.placement import score_placements
from embedrl.types import Lesson

Piece = Literal["format", "image_f1", "placement", "order"]


class PlacementReward:
    """One piece of what a placement is worth, as in `embedrl.metrics.placement`; implements `ReplyReward`.

    Source: the terms that M2IO-R1 names (arXiv 2508.06328); the formulas are this project's.

    Args:
        piece: `format`: nothing is wrong with the reply; `image_f1`: the right pictures; `placement`: at the right
            sentences; `order`: in the right order, Kendall's tau-b; 0 where the gold placement has no order, which
            makes no difference inside a group.
    """

    def __init__(self, piece: Piece) -> None:
        self.piece = piece

    @property
    def name(self) -> str:
        """`placing_` and the piece: the piece's own name is a figure of validation, over stories that have it."""
        return f"placing_{self.piece}"

    def __call__(self, lesson: Lesson, reply: str) -> float | None:
        """The piece of a reply.

        Args:
            lesson: A lesson whose `gold` holds `placements`, `images` and `sentences`.
            reply: The policy's text.

        Raises:
            ConfigError: If it is another kind of lesson.
        """
        gold = lesson.gold
        if "placements" not in gold:
            raise ConfigError(
                f"PlacementReward: a lesson {lesson.kind!r} holds no placements: give lessons that do, such as "
                "embedrl.data.world.WorldStories"
            )
        scores = score_placements(reply, gold["images"], gold["sentences"], gold["placements"])
        return scores.get(self.piece, 0.0)
