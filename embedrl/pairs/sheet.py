"""A contact sheet of pairs: pictures with their captions, to see whether the right ones stand together."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from embedrl.construction.sample import equal_distances
from embedrl.errors import DataError
from embedrl.pairs.collection import CaptionedItem, PairSet
from embedrl.visualization.drawing import CARD, INK, MUTED, PAPER, RED, draw_text, font, pixels

CELLS = 24
"""Pairs on a sheet."""

_COLUMNS, _GAP, _HEAD = 6, 12, 50
_WIDTH, _HEIGHT, _PICTURE = 220, 250, 150  # of a cell, and the height of its picture


def contact_sheet_of(halves: Sequence[PairSet]) -> Image.Image:
    """Draw pairs at equal distances; those of validation have a note.

    Args:
        halves: The pairs of training, and those of validation.
    """
    total = sum(map(len, halves))
    cells: list[tuple[CaptionedItem, str]] = []
    for half, note in zip(halves, ("train", "validation"), strict=True):
        share = min(len(half), max(1, round(CELLS * len(half) / total))) if len(half) else 0
        cells += [(half.items[i], note) for i in equal_distances(range(len(half)), share)]
    cells = cells[:CELLS] if len(cells) <= CELLS else [*cells[: CELLS - 1], cells[-1]]
    rows = -(-len(cells) // _COLUMNS)
    columns = min(_COLUMNS, len(cells))
    sheet = Image.new("RGB", (columns * (_WIDTH + _GAP) + _GAP, _HEAD + rows * (_HEIGHT + _GAP)), PAPER)
    head = f"{halves[0].name} : {len(halves[0]):,} pairs to train on, {len(halves[1]):,} to validate with"
    draw_text(ImageDraw.Draw(sheet), head, (_GAP, 14, sheet.width - _GAP, _HEAD), 20, INK)
    for place, (item, note) in enumerate(cells):
        row, column = divmod(place, _COLUMNS)
        sheet.paste(_cell(item, note), (_GAP + column * (_WIDTH + _GAP), _HEAD + row * (_HEIGHT + _GAP)))
    return sheet


def _cell(item: CaptionedItem, note: str) -> Image.Image:
    card = Image.new("RGB", (_WIDTH, _HEIGHT), CARD)
    draw = ImageDraw.Draw(card)
    area = (8, 8, _WIDTH - 8, _PICTURE)
    try:
        shown = pixels(item.side(), _WIDTH - 16, _PICTURE - 16)
    except DataError as error:  # named in the sheet: whether to train without it is not decided here
        draw_text(draw, str(error), area, 12, RED)
    else:
        assert shown is not None
        card.paste(shown, ((_WIDTH - shown.width) // 2, 8 + (_PICTURE - 16 - shown.height) // 2))
    draw_text(draw, item.text, (10, _PICTURE + 4, _WIDTH - 8, _HEIGHT - 22), 14, INK)
    draw.text((10, _HEIGHT - 20), note, MUTED, font(12))
    return card
