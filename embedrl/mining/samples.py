"""A page of mined pairs to look at: the query, its target, its negatives, and what was left out as too alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from embedrl.mining.neighbours import Neighbours
from embedrl.types import Pair, Side
from embedrl.visualization.drawing import CARD, GREEN, INK, MUTED, ORANGE, PAPER, Color, font
from embedrl.visualization.grids import CANDIDATE, HEIGHT, QUERY, candidate_card, frame, query_card

_GAP, _HEAD, _MOST = 12, 76, 4  # pixels, pixels, cards of a kind


@dataclass(frozen=True)
class Sample:
    """One pair of the page.

    Attributes:
        query: Its query.
        target: Its target and their cosine.
        negatives: Its hard negatives and their cosines.
        above: Neighbours over the ceiling and their cosines.
        note: What is written below the query.
    """

    query: Side
    target: tuple[Side, float]
    negatives: list[tuple[Side, float]]
    above: list[tuple[Side, float]]
    note: str

    @classmethod
    def of(cls, pair: Pair, one: Neighbours, sides: Sequence[Side], ceiling: float) -> Sample:
        """The sample of a pair.

        Args:
            pair: The pair.
            one: Its neighbours.
            sides: The corpus that they are positions in.
            ceiling: What a negative's cosine must stay below.
        """
        negatives, above = (
            [(sides[i], score) for i, score in some] for some in (one.negatives[:_MOST], one.above[: _MOST // 2])
        )
        note = f"{'doubtful, ' if one.doubtful else ''}ceiling {ceiling:.3f}, {len(one.above)} left out"
        return cls(pair.query, (pair.target, one.score), negatives, above, note)


def draw_samples(name: str, samples: Sequence[Sample]) -> Image.Image:
    """Draw the page: the target framed in green, what was left out in orange, negatives without a frame.

    Args:
        name: Name of the data set.
        samples: The pairs, one a row.
    """
    columns = max([1 + len(one.negatives) + len(one.above) for one in samples], default=1)
    size = (QUERY + columns * (CANDIDATE + _GAP) + 2 * _GAP, _HEAD + len(samples) * (HEIGHT + _GAP))
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((_GAP, 8), name, INK, font(22))
    lines = (
        "query · target (green) · probably positives, left out (orange) · hard negatives, the most alike first",
        "below each card its cosine with the query; what reaches the query's ceiling is left out",
    )
    for place, line in enumerate(lines):
        draw.text((_GAP, 36 + 18 * place), line, MUTED, font(14))
    for row, one in enumerate(samples):
        y = _HEAD + row * (HEIGHT + _GAP)
        page.paste(_query(one), (_GAP, y))
        cards: list[tuple[Side, float, Color | None, str]] = [(*one.target, GREEN, "target")]
        cards += [(*other, ORANGE, "left out") for other in one.above]
        cards += [(*other, None, "") for other in one.negatives]
        for column, (side, score, color, note) in enumerate(cards):
            card = candidate_card(side, f"{score:.3f}")
            if color is not None:
                frame(card, color, note)
            page.paste(card, (QUERY + 2 * _GAP + column * (CANDIDATE + _GAP), y))
    return page


def _query(one: Sample) -> Image.Image:
    """The query's card with its note in the lower right corner."""
    card = query_card(one.query)
    draw = ImageDraw.Draw(card)
    corner = (QUERY - 10, HEIGHT - 6)
    left, top, right, bottom = draw.textbbox(corner, one.note, font(14), anchor="rd")
    draw.rectangle((left - 6, top - 4, right + 4, bottom + 4), CARD)  # a long text may reach there
    draw.text(corner, one.note, MUTED, font(14), anchor="rd")
    return card
