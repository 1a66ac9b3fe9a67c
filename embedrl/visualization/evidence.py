"""A side with the evidence that its T-CoT points at: boxes and their crops, key frames, keywords, the T-CoT itself."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from embedrl.data.render import RenderOptions, render
from embedrl.inference.frozen_embedder import LENIENT
from embedrl.tcot.parser import parse
from embedrl.tcot.schema import SECTIONS
from embedrl.types import Modality, Side
from embedrl.visualization.drawing import CARD, INK, MUTED, ORANGE, PAPER, RED, draw_text, fit, pixels, tag, tcot_of

_GAP = 10


def evidence_of(side: Side, options: RenderOptions = LENIENT) -> list[Image.Image]:
    """The crops or key frames of a side, exactly as an Embedder with these options sees them; none of a text."""
    parts = render(side, options)[0]["content"]
    return [part["image"] for part in parts if part.get("evidence")]


def draw_panel(side: Side, width: int, height: int, options: RenderOptions = LENIENT) -> Image.Image:
    """A side's pixels with numbered boxes or key frames, and the evidence beside them; a text with its keywords.

    Args:
        side: The side, with its T-CoT if it has one.
        width: Width of the panel.
        height: Largest height of the panel.
        options: How the Embedder sees the side; decides how crops are cut.
    """
    if side.modality is Modality.TEXT:
        return _text_panel(side, width, height)
    crops = evidence_of(side, options)
    cell = (height - _GAP) // max(len(crops), 2) - _GAP
    shown = pixels(side, width - (cell + _GAP if crops else 0), height)
    assert shown is not None
    panel = Image.new("RGB", (width, height), CARD)
    panel.paste(shown, (0, 0))
    tcot = tcot_of(side)
    names = tcot.cues.key_frames if tcot and side.frames else range(1, len(crops) + 1)
    for index, (crop, name) in enumerate(zip(crops, names, strict=False)):
        large = fit(crop, cell, cell)
        tag(large, (0, 0), str(name), max(12, min(22, cell // 6)))
        panel.paste(large, (shown.width + _GAP, index * (cell + _GAP)))
    return panel


def _text_panel(side: Side, width: int, height: int) -> Image.Image:
    panel = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(panel)
    size = 20 if len(side.text) < 200 else 15
    y = draw_text(draw, side.text, (12, 12, width - 12, height - 60), size, INK)
    tcot = tcot_of(side)
    keywords = " · ".join(tcot.cues.text_keywords) if tcot else ""
    draw_text(draw, keywords, (12, y + 10, width - 12, height - 6), size, ORANGE)
    return panel


def draw_tcot(draw: ImageDraw.ImageDraw, side: Side, area: tuple[int, int, int, int], size: int) -> int:
    """Write a side's T-CoT, section by section, and in red what is wrong with it.

    Args:
        draw: Where to write.
        side: The side.
        area: left, top, right, bottom in pixels; the answer comes last and the other sections leave room for it.
        size: Font size in pixels.

    Returns:
        The y below the last line.
    """
    left, y, right, bottom = area
    if not side.tcot:
        return draw_text(draw, "no T-CoT", area, size, MUTED)
    read = parse(side.tcot, side.modality, len(side.frames) or None)
    line = round(size * 1.28)
    for section, room in zip(SECTIONS, (5, 2, 0), strict=True):
        text = getattr(read.tcot, section) or "(nothing)"
        y = draw_text(draw, section, (left, y, right, bottom), size - 3, ORANGE)
        y = draw_text(draw, text, (left, y, right, bottom - room * line), size, INK) + size // 3
    problems = ", ".join(sorted(read.codes))
    return draw_text(draw, f"problems: {problems}" if problems else "", (left, y, right, bottom), size - 2, RED)


def draw_evidence(side: Side, notes: Sequence[str] = (), options: RenderOptions = LENIENT) -> Image.Image:
    """One picture of a side: its evidence above, its T-CoT below.

    Args:
        side: The side with its T-CoT.
        notes: Lines at the bottom, such as where it comes from.
        options: How the Embedder sees the side.
    """
    width, height = 960, 200 if side.modality is Modality.TEXT else 560
    text = Image.new("RGB", (width, 1200), CARD)
    draw = ImageDraw.Draw(text)
    y = 0
    if side.modality is not Modality.TEXT and side.text.strip():
        y = draw_text(draw, side.text, (0, 0, width, 160), 20, INK) + 10
    y = draw_tcot(draw, side, (0, y, width, 1000), 18)
    for note in notes:
        y = draw_text(draw, note, (0, y + 8, width, 1190), 14, MUTED)
    picture = Image.new("RGB", (width + 2 * _GAP, height + y + 4 * _GAP), CARD)
    picture.paste(draw_panel(side, width, height, options), (_GAP, _GAP))
    picture.paste(text.crop((0, 0, width, y + _GAP)), (_GAP, height + 2 * _GAP))
    return picture
