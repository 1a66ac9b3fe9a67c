"""A contact sheet of the world: twelve pairs per page, evidence drawn in, texts beside."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from embedrl.data.world.families import FAMILIES
from embedrl.data.world.scene import Split
from embedrl.data.world.source import WorldSource, check_choice
from embedrl.errors import ConfigError
from embedrl.tcot.evidence import crop_box
from embedrl.tcot.parser import parse
from embedrl.tcot.schema import TCoT
from embedrl.types import Pair, Side

Writer = Literal["perfect", "annotator"]
TEACHER_COLORS: dict[Writer, tuple[int, int, int]] = {"perfect": (20, 132, 62), "annotator": (217, 104, 10)}
"""Colour of each teacher's evidence and text."""

PAIRS_PER_PAGE = 12
_COLUMNS = 2
_CARD = (1180, 400)  # width and height of one pair
_GAP, _HEAD = 20, 64
_PICTURE, _FRAME, _CROP = 216, 72, 64
_INK, _MUTED, _PAPER, _CARD_PAPER = (28, 32, 38), (112, 120, 130), (236, 238, 241), (255, 255, 255)
_MARGIN = 0.1  # of a crop, as in training


def contact_sheet(
    show: int = PAIRS_PER_PAGE,
    out: Path = Path("world_sheet"),
    family: str | None = None,
    split: Split = "train",
    teacher: Literal["perfect", "annotator", "both"] = "both",
    seed: int = 0,
) -> list[Path]:
    """Draw pairs of the world with their T-CoTs and evidence, and say which files were written.

    Args:
        show: Number of pairs, twelve per page.
        out: Folder for the pages, `world_<split>_<number>.png`; made if missing.
        family: A name in `FAMILIES`; None means all in turn.
        split: The split to draw from.
        teacher: Whose T-CoTs to show.
        seed: Seed of the pairs.

    Returns:
        The pages written, in order.

    Raises:
        ConfigError: If a name is unknown or `show` is below 1.
    """
    if show < 1:
        raise ConfigError(f"show is {show}: give 1 or more")
    check_choice("teacher", teacher, (*TEACHER_COLORS, "both"))
    families = tuple(FAMILIES) if family is None else (family,)
    writers: tuple[Writer, ...] = ("perfect", "annotator") if teacher == "both" else (teacher,)
    sources = {
        (name, writer): WorldSource(name, split, size=show, seed=seed, teacher=writer)
        for name in families
        for writer in writers
    }
    pairs = [
        {writer: sources[families[i % len(families)], writer][i // len(families)] for writer in writers}
        for i in range(show)
    ]
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, start in enumerate(range(0, show, PAIRS_PER_PAGE), start=1):
        path = out / f"world_{split}_{number}.png"
        _page(pairs[start : start + PAIRS_PER_PAGE], f"the built-in world : {split}").save(path, compress_level=3)
        paths.append(path)
    pages = str(paths[0]) if len(paths) == 1 else f"{paths[0]} to {paths[-1].name}"
    sys.stdout.write(f"Wrote {show} pairs of the built-in world: {pages}\n")
    return paths


def _page(pairs: Sequence[dict[Writer, Pair]], title: str) -> Image.Image:
    rows = -(-len(pairs) // _COLUMNS)
    width = _COLUMNS * (_CARD[0] + _GAP) + _GAP
    page = Image.new("RGB", (width, _HEAD + rows * (_CARD[1] + _GAP)), _PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((_GAP, 18), title, _INK, _font(24))
    x = width - _GAP
    for writer in reversed(pairs[0]):
        x -= round(_font(16).getlength(writer)) + 8
        draw.text((x, 24), writer, TEACHER_COLORS[writer], _font(16))
        draw.rectangle((x - 24, 26, x - 8, 40), outline=TEACHER_COLORS[writer], width=3)
        x -= 44
    for index, pair in enumerate(pairs):
        row, column = divmod(index, _COLUMNS)
        page.paste(_card(pair), (_GAP + column * (_CARD[0] + _GAP), _HEAD + row * (_CARD[1] + _GAP)))
    return page


def _card(pairs: dict[Writer, Pair]) -> Image.Image:
    card = Image.new("RGB", _CARD, _CARD_PAPER)
    draw = ImageDraw.Draw(card)
    first = next(iter(pairs.values()))
    draw.text((14, 9), first.dataset.split("/")[1], _INK, _font(17))
    draw.text((_CARD[0] - 14, 13), first.id, _MUTED, _font(12), anchor="ra")
    half = _CARD[0] // 2
    draw.line((half, 40, half, _CARD[1] - 14), _PAPER, 2)
    for x, title, sides in (
        (14, "query", {w: pair.query for w, pair in pairs.items()}),
        (half + 14, "target", {w: pair.target for w, pair in pairs.items()}),
    ):
        draw.text((x, 36), title, _MUTED, _font(12))
        card.paste(_half(sides, half - 24, _CARD[1] - 58), (x, 54))
    return card


def _half(sides: dict[Writer, Side], width: int, height: int) -> Image.Image:
    """One side of a pair: pixels at the left, texts at the right; a text side has the whole width."""
    canvas = Image.new("RGB", (width, height), _CARD_PAPER)
    draw = ImageDraw.Draw(canvas)
    side = next(iter(sides.values()))
    cots = {w: parse(s.tcot, s.modality, len(s.frames) or None).tcot for w, s in sides.items()}
    x = 0
    if side.images:
        canvas.paste(_picture(side.images[0].load(), cots), (0, 0))
        _crops(canvas, side.images[0].load(), cots, _PICTURE + 8)
        x = _PICTURE + 14
    elif side.frames:
        canvas.paste(_strip([frame.load() for frame in side.frames], cots), (0, 0))
        x = _PICTURE + 14
    y = _write(draw, side.text, x, 0, width, 16, _INK) + 6 if side.text else 0
    for writer, owner in sides.items():
        for line in owner.tcot.replace("><", ">\n<").splitlines():
            y = _write(draw, line, x, y, width, 13, TEACHER_COLORS[writer])
        y += 9
    return canvas


def _picture(image: Image.Image, cots: dict[Writer, TCoT]) -> Image.Image:
    image = image.resize((_PICTURE, _PICTURE), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    for inset, (writer, cot) in enumerate(cots.items()):
        for box in cot.cues.boxes:
            x1, y1, x2, y2 = (round(edge * (_PICTURE - 1) / 1000) for edge in box)
            draw.rectangle((x1 + inset, y1 + inset, x2 - inset, y2 - inset), outline=TEACHER_COLORS[writer], width=2)
    return image


def _crops(canvas: Image.Image, image: Image.Image, cots: dict[Writer, TCoT], y: int) -> None:
    """What each teacher's evidence shows, one row per teacher."""
    draw = ImageDraw.Draw(canvas)
    for writer, cot in cots.items():
        x = 2
        for box in cot.cues.boxes[:3]:
            crop = crop_box(image, box, margin=_MARGIN)
            scale = min((_PICTURE - 6) / crop.width, (_CROP - 12) / crop.height)
            crop = crop.resize((round(crop.width * scale), round(crop.height * scale)), Image.Resampling.LANCZOS)
            if x + crop.width > _PICTURE:
                break
            canvas.paste(crop, (x, y + 2))
            draw.rectangle((x - 2, y, x + crop.width + 1, y + crop.height + 3), outline=TEACHER_COLORS[writer], width=2)
            x += crop.width + 8
        y += _CROP - 4


def _strip(frames: Sequence[Image.Image], cots: dict[Writer, TCoT]) -> Image.Image:
    """The frames, three a row; key frames have the teacher's colour as a bar below."""
    rows = -(-len(frames) // 3)
    step = _FRAME + 16
    strip = Image.new("RGB", (_PICTURE, rows * step), _CARD_PAPER)
    draw = ImageDraw.Draw(strip)
    for index, frame in enumerate(frames):
        x, y = index % 3 * _FRAME, index // 3 * step
        strip.paste(frame.resize((_FRAME - 3, _FRAME - 3), Image.Resampling.LANCZOS), (x, y))
        for order, (writer, cot) in enumerate(cots.items()):
            if index + 1 in cot.cues.key_frames:
                top = y + _FRAME - 1 + 6 * order
                draw.rectangle((x, top, x + _FRAME - 4, top + 3), fill=TEACHER_COLORS[writer])
    return strip


def _write(
    draw: ImageDraw.ImageDraw, text: str, x: int, y: int, right: int, size: int, color: tuple[int, int, int]
) -> int:
    """Write text wrapped between `x` and `right`; returns the y below it."""
    font = _font(size)
    line = ""
    for word in text.split():
        if line and font.getlength(f"{line} {word}") > right - x:
            draw.text((x, y), line, color, font)
            y, line = y + round(size * 1.3), word
        else:
            line = f"{line} {word}".strip()
    draw.text((x, y), line, color, font)
    return y + round(size * 1.3)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
