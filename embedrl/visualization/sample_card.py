"""One held-out query as a picture: the T-CoT that the Reasoner wrote, and the rank of the right candidate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from embedrl.data.render import RenderOptions
from embedrl.inference.frozen_embedder import LENIENT
from embedrl.metrics.ranking import GRID
from embedrl.types import Modality, Side
from embedrl.visualization.drawing import CARD, GREEN, INK, MUTED, PAPER, RED, draw_text, font, tcot_of
from embedrl.visualization.evidence import draw_panel, draw_tcot

if TYPE_CHECKING:
    from embedrl.metrics.task_scorer import TaskResult

WIDTH = 900
_GAP, _HEAD, _QUERY, _CANDIDATE = 12, 72, 330, 176
_HALF = (WIDTH - 3 * _GAP) // 2


@dataclass(frozen=True)
class Standing:
    """How a query's right candidate compares with the wrong ones of its pool.

    Attributes:
        right: The right candidate that fits best.
        wrong: The wrong candidate that fits best; None if there is none.
        similarity: Cosine with the right one.
        wrong_similarity: Cosine with the wrong one; `-inf` if there is none.
        rank: 1 plus the number of wrong candidates at least as similar.
        pool: Number of candidates.
    """

    right: int
    wrong: int | None
    similarity: float
    wrong_similarity: float
    rank: int
    pool: int

    @property
    def text(self) -> str:
        """The rank in words."""
        return f"rank {self.rank} of {self.pool}"


def standing(result: TaskResult, row: int) -> Standing:
    """How the right candidate of query `row` ranks; ties count against it, as in `embedrl.metrics.retrieval`."""
    pool = list(range(len(result.candidates)) if result.task.pools is None else result.task.pools[row])
    scores = dict(zip(pool, (result.candidates[pool].double() @ result.queries[row].double()).tolist(), strict=True))
    rights = {col for col in pool if result.task.qrels[row].get(col, 0) > 0}
    right = max(rights, key=scores.__getitem__)
    wrongs = [col for col in pool if col not in rights]
    wrong = max(wrongs, key=scores.__getitem__, default=None)
    ahead = sum(scores[col] > scores[right] - GRID / 2 for col in wrongs)
    best_wrong = float("-inf") if wrong is None else scores[wrong]
    return Standing(right, wrong, scores[right], best_wrong, 1 + ahead, len(pool))


def draw_sample(result: TaskResult, row: int, options: RenderOptions = LENIENT) -> Image.Image:
    """Draw a query with its evidence and T-CoT, and below it the right and the best wrong candidate with theirs.

    Args:
        result: A scored task whose sides hold the T-CoTs that were written.
        row: The query.
        options: How the Embedder sees a side.
    """
    task, stand = result.task, standing(result, row)
    card = Image.new("RGB", (WIDTH, _HEAD + _QUERY + _CANDIDATE + 3 * _GAP), PAPER)
    draw = ImageDraw.Draw(card)
    color = GREEN if stand.rank == 1 else RED
    draw.text((_GAP, 10), f"{task.name} · query {row}", INK, font(24))
    draw.text((WIDTH - _GAP, 10), stand.text, color, font(24), anchor="ra")
    figures = f"similarity with the right one {stand.similarity:.3f}"
    if stand.wrong is not None:
        gap = stand.similarity - stand.wrong_similarity
        figures += f", with the best wrong one {stand.wrong_similarity:.3f}: {gap:+.3f}"
    draw.text((_GAP, 44), figures, color, font(17))
    card.paste(_query(task.queries[row], options), (_GAP, _HEAD))
    below = _HEAD + _QUERY + _GAP
    shown = [(stand.right, "right", stand.similarity, GREEN)]
    shown += [(stand.wrong, "best wrong", stand.wrong_similarity, RED)] if stand.wrong is not None else []
    for place, (col, title, score, edge) in enumerate(shown):
        picture = _candidate(task.candidates[col], f"{title} {score:.3f}", edge, options)
        card.paste(picture, (_GAP + place * (_HALF + _GAP), below))
    return card


def _query(side: Side, options: RenderOptions) -> Image.Image:
    card = Image.new("RGB", (WIDTH - 2 * _GAP, _QUERY), CARD)
    draw = ImageDraw.Draw(card)
    panel = draw_panel(side, 410, _QUERY - 2 * _GAP, options)
    card.paste(panel, (_GAP, _GAP))
    left, y = 410 + 2 * _GAP, _GAP
    if side.modality is not Modality.TEXT and side.text.strip():
        y = draw_text(draw, side.text, (left, y, card.width - _GAP, 90), 19, INK) + 8
    draw_tcot(draw, side, (left, y, card.width - _GAP, _QUERY - _GAP), 17)
    return card


def _candidate(side: Side, title: str, edge: tuple[int, int, int], options: RenderOptions) -> Image.Image:
    card = Image.new("RGB", (_HALF, _CANDIDATE), CARD)
    draw = ImageDraw.Draw(card)
    panel = draw_panel(side, 224, _CANDIDATE - 2 * _GAP, options)
    card.paste(panel, (_GAP, _GAP))
    left = 224 + 2 * _GAP
    y = draw_text(draw, title, (left, _GAP, _HALF - _GAP, 60), 19, edge) + 4
    if side.modality is not Modality.TEXT:
        y = draw_text(draw, side.text, (left, y, _HALF - _GAP, _CANDIDATE - 60), 15, INK) + 2
    tcot = tcot_of(side)
    draw_text(draw, (tcot.answer if tcot else "") or "(no answer)", (left, y, _HALF - _GAP, _CANDIDATE - 8), 16, MUTED)
    draw.rectangle((0, 0, _HALF - 1, _CANDIDATE - 1), outline=edge, width=4)
    return card
