"""Hits as one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from embedrl.tcot.parser import parse
from embedrl.visualization.drawing import CARD, INK, MUTED, ORANGE, PAPER, draw_text, fit, font, outline, tag

if TYPE_CHECKING:
    from embedrl.index.hits import Hit, Hits

_WIDTH, _HEIGHT, _PICTURE, _GAP, _COLUMNS = 224, 300, 190, 12, 5  # pixels, and cards in a row
_HEAD = 64


def draw_hits(hits: Hits) -> Image.Image:
    """The hits as cards, five in a row, below what was searched for.

    Args:
        hits: The hits.

    Raises:
        DataError: If a thumbnail is broken.
    """
    columns = min(max(len(hits), 2), _COLUMNS)
    rows = -(-len(hits) // _COLUMNS)
    size = columns * (_WIDTH + _GAP) + _GAP, _HEAD + rows * (_HEIGHT + _GAP) + _GAP
    picture = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(picture)
    draw_text(draw, hits.query or "a picture", (_GAP, 8, size[0] - _GAP, 32), 18, INK)
    answer = parse(hits.tcot, hits.query_modality).tcot.answer if hits.tcot else ""
    draw_text(draw, answer or f"{len(hits)} hits", (_GAP, 36, size[0] - _GAP, 58), 14, ORANGE if answer else MUTED)
    for i, hit in enumerate(hits):
        row, column = divmod(i, _COLUMNS)
        picture.paste(_card(hit, i + 1), (_GAP + column * (_WIDTH + _GAP), _HEAD + row * (_HEIGHT + _GAP)))
    return picture


def _card(hit: Hit, rank: int) -> Image.Image:
    card = Image.new("RGB", (_WIDTH, _HEIGHT), CARD)
    draw = ImageDraw.Draw(card)
    small, top = hit.thumbnail, 10
    if small is not None:
        shown = fit(small, _WIDTH - 16, _PICTURE)
        for number, box in enumerate(hit.evidence.get("boxes", []), 1):
            outline(shown, box, number)
        if frames := hit.evidence.get("frames"):
            tag(shown, (0, 0), f"frames {', '.join(map(str, frames[:4]))}", 16)
        card.paste(shown, ((_WIDTH - shown.width) // 2, 8 + (_PICTURE - shown.height) // 2))
        top = _PICTURE + 14
    bottom = _HEIGHT - 26
    answer = parse(hit.tcot, hit.modality).tcot.answer if hit.tcot else ""
    for text, color in ((hit.text, INK), (" · ".join(hit.evidence.get("keywords", [])), ORANGE), (answer, MUTED)):
        if text:
            top = draw_text(draw, text, (8, top, _WIDTH - 8, bottom), 13, color) + 3
    if not hit.text and not answer:
        draw_text(draw, hit.path, (8, top, _WIDTH - 8, bottom), 13, INK)
    draw.text((8, _HEIGHT - 22), f"{rank}", INK, font(14))
    draw.text((_WIDTH - 8, _HEIGHT - 22), f"{hit.score:.3f}", MUTED, font(14), anchor="ra")
    return card
