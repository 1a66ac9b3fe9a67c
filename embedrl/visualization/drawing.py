"""Sides as small pictures: pixels with their cues drawn in, text below."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from embedrl.tcot.parser import parse
from embedrl.tcot.schema import TCoT
from embedrl.types import Side

INK, MUTED, PAPER, CARD = (28, 32, 38), (110, 117, 128), (236, 238, 241), (255, 255, 255)
GREEN, ORANGE, RED = (22, 150, 72), (238, 118, 0), (198, 40, 40)
"""The right candidate; a T-CoT's cue; a wrong candidate, a problem."""

_LONGEST = 2000  # characters worth laying out

Color = tuple[int, int, int]


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font: the same on every machine."""
    return ImageFont.load_default(size)


def tcot_of(side: Side) -> TCoT | None:
    """The side's T-CoT, read leniently; None if it has none."""
    return parse(side.tcot, side.modality, len(side.frames) or None).tcot if side.tcot else None


def pixels(side: Side, width: int, height: int, cues: bool = True) -> Image.Image | None:
    """The side's pictures in a row, or its frames as a strip, with numbered boxes and key frames in orange.

    Args:
        side: What to draw.
        width: Largest width.
        height: Largest height.
        cues: Whether to draw the T-CoT's cues.

    Returns:
        A picture at most that large, or None if the side is text alone.
    """
    tcot = tcot_of(side) if cues else None
    if side.frames:
        keys = set(tcot.cues.key_frames) if tcot else set()
        return _strip([frame.load() for frame in side.frames], keys, width, height)
    if not side.images:
        return None
    each = (width - 4 * (len(side.images) - 1)) // len(side.images)
    shown = [fit(image.load(), each, height) for image in side.images]
    for number, box in enumerate(tcot.cues.boxes if tcot else (), 1):  # boxes belong to the first picture
        outline(shown[0], box, number)
    return _row(shown, 4)


def thumbnail(side: Side, size: int) -> Image.Image:
    """A square picture of a side: its pixels, or its first words."""
    square = Image.new("RGB", (size, size), CARD)
    shown = pixels(side, size, size, cues=False)
    if shown is None:
        draw_text(ImageDraw.Draw(square), side.text, (2, 2, size - 2, size - 2), max(8, size // 5), INK)
    else:
        square.paste(shown, ((size - shown.width) // 2, (size - shown.height) // 2))
    return square


def draw_text(draw: ImageDraw.ImageDraw, text: str, area: tuple[int, int, int, int], size: int, color: Color) -> int:
    """Write wrapped text into an area, with an ellipsis if it does not fit.

    Args:
        draw: Where to write.
        text: What to write.
        area: left, top, right, bottom in pixels.
        size: Font size in pixels.
        color: Colour of the text.

    Returns:
        The y below the last line.
    """
    left, top, right, bottom = area
    step = round(size * 1.28)
    room = max((bottom - top) // step, 0)
    lines = _wrap(text[:_LONGEST], font(size), right - left)
    if len(lines) > room:
        lines = lines[:room]
        if lines:
            lines[-1] = _shorten(lines[-1] + " ...", font(size), right - left)
    for line in lines:
        draw.text((left, top), line, color, font(size))
        top += step
    return top


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """The picture as large as it fits into width and height, its shape kept."""
    scale = min(width / image.width, height / image.height)
    size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    return image.resize(size, Image.Resampling.LANCZOS if scale < 2 else Image.Resampling.BICUBIC)


def tag(image: Image.Image, place: tuple[int, int], text: str, height: int) -> None:
    """Put a short white text on an orange ground, moved inside the picture if it would stick out.

    Args:
        image: Where to draw.
        place: Its top left corner.
        text: The text.
        height: Its height in pixels.
    """
    face = font(round(height * 0.85))
    width = round(face.getlength(text)) + height // 2
    left, top = (
        max(min(at, room), 0) for at, room in zip(place, (image.width - width, image.height - height), strict=True)
    )
    draw = ImageDraw.Draw(image)
    draw.rectangle((left, top, left + width - 1, top + height - 1), fill=ORANGE)
    draw.text((left + width / 2, top + height / 2), text, CARD, face, anchor="mm")


def _wrap(text: str, face: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and face.getlength(longer) > width:
            lines.append(_shorten(word, face, width))
        else:
            lines[-1] = longer if face.getlength(longer) <= width else _shorten(longer, face, width)
    return lines if lines[0] else []


def _shorten(line: str, face: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if face.getlength(line) <= width:
        return line
    line = line[: width + 1]  # no character is narrower than a pixel
    fits = bisect_right([face.getlength(line[:n] + "...") for n in range(len(line))], width) - 1
    return line[: max(fits, 0)].rstrip(" .") + "..."


def outline(image: Image.Image, box: Sequence[float], number: int) -> None:
    """Draw a numbered orange box, given in 0..1000 of the picture's width and height."""
    x1, x2 = (round(box[i] * (image.width - 1) / 1000) for i in (0, 2))
    y1, y2 = (round(box[i] * (image.height - 1) / 1000) for i in (1, 3))
    ImageDraw.Draw(image).rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=ORANGE, width=2)
    height = max(12, min(22, image.height // 12))
    tag(image, (x1, y1 - height if y1 >= height else y1), str(number), height)  # above the box if there is room


def _strip(frames: Sequence[Image.Image], keys: set[int], width: int, height: int) -> Image.Image:
    """Frames in reading order, as large as fits; key frames (1-based) have a thick orange border and their number."""
    columns = max(range(1, len(frames) + 1), key=lambda n: min(width / n, height / -(-len(frames) // n)))
    rows = -(-len(frames) // columns)
    shown = [fit(frame, width // columns - 4, height // rows - 4) for frame in frames]
    cell = max(f.width for f in shown) + 4, max(f.height for f in shown) + 4
    strip = Image.new("RGB", (columns * cell[0], rows * cell[1]), CARD)
    for index, frame in enumerate(shown):
        x, y = index % columns * cell[0] + 2, index // columns * cell[1] + 2
        strip.paste(frame, (x, y))
        if index + 1 in keys:
            outer = (x - 2, y - 2, x + frame.width + 1, y + frame.height + 1)
            ImageDraw.Draw(strip).rectangle(outer, outline=ORANGE, width=3)
            tag(strip, outer[:2], str(index + 1), max(12, min(22, frame.height // 4)))
    return strip


def _row(images: Sequence[Image.Image], gap: int) -> Image.Image:
    row = Image.new("RGB", (sum(i.width + gap for i in images) - gap, max(i.height for i in images)), CARD)
    x = 0
    for image in images:
        row.paste(image, (x, 0))
        x += image.width + gap
    return row
