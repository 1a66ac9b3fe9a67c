"""Pictures of what was retrieved: queries with their best candidates, the right one framed in green."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from embedrl.metrics.ranking import similarity
from embedrl.types import Side
from embedrl.visualization.drawing import (
    CARD,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    Color,
    draw_text,
    font,
    pixels,
    tcot_of,
)

if TYPE_CHECKING:
    from embedrl.metrics.task_scorer import TaskResult


QUERY, CANDIDATE, HEIGHT = 470, 196, 206  # pixels: width of a query, of a candidate, height of a row


_GAP, _HEAD = 12, 58


def draw_grid(result: TaskResult, num_queries: int, top_k: int) -> Image.Image:
    """Draw a scored task.

    Args:
        result: Task, vectors and ranking.
        num_queries: Rows.
        top_k: Candidates a row; if none of them is right, the right one is added after them.
    """
    task, ranking = result.task, result.ranking
    count = min(num_queries, len(task.queries))
    rows = [round(i) for i in np.linspace(0, len(task.queries) - 1, count)]
    best = ranking.indices[:, :top_k].tolist()
    missed = any(not any(task.qrels[row].get(col, 0) > 0 for col in best[row]) for row in rows)
    width = QUERY + (top_k + missed) * (CANDIDATE + _GAP) + 2 * _GAP
    grid = Image.new("RGB", (width, _HEAD + count * (HEIGHT + _GAP)), PAPER)
    draw = ImageDraw.Draw(grid)
    pool = len(task.candidates) if task.pools is None else round(np.mean([len(p) for p in task.pools]))
    draw.text((_GAP, 8), task.name, INK, font(22))
    scores = " · ".join(f"{name} {result.metrics[name]:.2f}" for name in list(result.metrics)[:2])
    draw.text((_GAP, 36), f"{scores} · {len(task.queries)} queries, {pool} candidates each", MUTED, font(14))
    for column in range(top_k + missed):
        title = f"{column + 1}" if column < top_k else "the right one"
        draw.text((QUERY + 2 * _GAP + column * (CANDIDATE + _GAP), 36), title, MUTED, font(14))
    for line, row in enumerate(rows):
        y = _HEAD + line * (HEIGHT + _GAP)
        grid.paste(query_card(task.queries[row]), (_GAP, y))
        columns = [col for col in best[row] if col >= 0]
        right = [col for col, value in task.qrels[row].items() if value > 0]
        if not set(columns) & set(right):
            columns += [-1] * (top_k - len(columns)) + right[:1]
        for place, col in enumerate(columns):
            if col < 0:
                continue
            score = float(similarity(result.queries[row : row + 1], result.candidates[col : col + 1]))
            card = candidate_card(task.candidates[col], f"{score:.3f}")
            if col in right:
                frame(card, GREEN, "right" if place < top_k else "not retrieved", 5 if place < top_k else 2)
            grid.paste(card, (QUERY + 2 * _GAP + place * (CANDIDATE + _GAP), y))
    return grid


def query_card(side: Side) -> Image.Image:
    """A side with its text and the words of its T-CoT, `QUERY` by `HEIGHT` pixels."""
    card = Image.new("RGB", (QUERY, HEIGHT), CARD)
    draw = ImageDraw.Draw(card)
    shown = pixels(side, 210, HEIGHT - 16)
    left = 12
    if shown is not None:
        card.paste(shown, (8, (HEIGHT - shown.height) // 2))
        left = shown.width + 20
    y = draw_text(draw, side.text, (left, 10, QUERY - 8, HEIGHT - 60), 17, INK) + 6
    tcot = tcot_of(side)
    if tcot is not None:
        y = draw_text(draw, " · ".join(tcot.cues.text_keywords), (left, y, QUERY - 8, HEIGHT - 8), 14, ORANGE) + 2
        for label, text in (("", tcot.rethink), ("answer: ", tcot.answer)):
            y = draw_text(draw, label + text if text else "", (left, y, QUERY - 8, HEIGHT - 6), 14, MUTED) + 2
    return card


def candidate_card(side: Side, line: str) -> Image.Image:
    """A side above a line, `CANDIDATE` by `HEIGHT` pixels."""
    card = Image.new("RGB", (CANDIDATE, HEIGHT), CARD)
    draw = ImageDraw.Draw(card)
    bottom = HEIGHT - 28
    room = bottom - (50 if side.text else 14)
    shown = pixels(side, CANDIDATE - 20, room)
    if shown is None:
        size = 18 if len(side.text) < 60 else 14
        draw_text(draw, side.text, (12, 14, CANDIDATE - 10, bottom), size, INK)
    else:
        card.paste(shown, ((CANDIDATE - shown.width) // 2, 10 + (room - shown.height) // 2))
        draw_text(draw, side.text, (10, room + 14, CANDIDATE - 8, bottom), 13, INK)
    draw.text((10, HEIGHT - 24), line, MUTED, font(14))
    return card


def frame(card: Image.Image, color: Color, note: str, width: int = 2) -> None:
    """Draw a frame around a candidate's card, with a note in the lower right corner."""
    draw = ImageDraw.Draw(card)
    draw.rectangle((0, 0, CANDIDATE - 1, HEIGHT - 1), outline=color, width=width)
    draw.text((CANDIDATE - 10, HEIGHT - 24), note, color, font(14), anchor="ra")
