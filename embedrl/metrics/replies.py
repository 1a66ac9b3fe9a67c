"""Metrics of a written reply against the reference values of a lesson (`gold`)."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import torch
from torchvision.ops import box_iou

from embedrl.metrics.placement import score_placements, without_thinking
from embedrl.tcot.parser import parse
from embedrl.tcot.schema import Box
from embedrl.types import Lesson, Modality


def score_reply(reply: str, lesson: Lesson) -> dict[str, float]:
    """Score one reply; which figures there are depends on the lesson's gold.

    Args:
        reply: What the model wrote.
        lesson: The lesson; `gold` may hold `boxes` (0..1000), `frames` (1-based), `keywords`, `answer`, and
            `modality`, which says that a whole T-CoT of that modality is asked for; or `placements`, with `images`
            and `sentences`, of an inserter.

    Returns:
        `exact` always; `iou` for boxes, `f1` for frames, `keyword_f1` for keywords, `answer` for an answer; for a T-CoT
        `format` (1 if it has no problem), `words`, and a 1 for each `problem/<code>` it has; for placements those of
        `score_placements`.
    """
    gold = lesson.gold
    if "placements" in gold:
        pieces = score_placements(reply, gold["images"], gold["sentences"], gold["placements"])
        return {"exact": float(without_thinking(reply) == without_thinking(lesson.reply)), **pieces}
    modality = Modality(gold["modality"]) if "modality" in gold else None
    scores = {"exact": float(reply == lesson.reply)}
    # The lenient reading serves bare cue objects as well as whole T-CoTs.
    read = parse(reply, modality or (Modality.VIDEO if "frames" in gold else Modality.IMAGE))
    if modality is not None:
        scores |= {"format": float(read.ok), "words": float(len(reply.split()))}
        scores |= {f"problem/{code}": 1.0 for code in sorted(read.codes)}
    if "boxes" in gold:
        scores["iou"] = matched_iou(read.tcot.cues.boxes, gold["boxes"])
    if "frames" in gold:
        scores["f1"] = f1(set(read.tcot.cues.key_frames), set(gold["frames"]))
    if "keywords" in gold:
        scores["keyword_f1"] = f1(set(read.tcot.cues.text_keywords), set(gold["keywords"]))
    if "answer" in gold:
        scores["answer"] = float((read.tcot.answer if modality else reply).strip() == gold["answer"])
    return scores


def matched_iou(predicted: Sequence[Box], gold: Sequence[Box], threshold: float = 0.0) -> float:
    """Mean IoU of boxes paired off greedily, best pair first; a box without a partner counts as 0.

    Args:
        predicted: Boxes of a reply.
        gold: The right ones.
        threshold: A smaller IoU counts as 0.
    """
    if not predicted or not gold:
        return float(not predicted and not gold)
    overlaps = box_iou(torch.tensor(predicted, dtype=torch.float64), torch.tensor(gold, dtype=torch.float64))
    total = 0.0
    for _ in range(min(len(predicted), len(gold))):
        best = int(overlaps.argmax())
        row, column = divmod(best, len(gold))
        overlap = float(overlaps[row, column])
        total += overlap if overlap >= threshold else 0.0
        overlaps[row], overlaps[:, column] = -1.0, -1.0
    return total / max(len(predicted), len(gold))


def f1(predicted: Set[Any], gold: Set[Any]) -> float:
    """Harmonic mean of precision and recall of a set of frames or keywords."""
    return 2 * len(predicted & gold) / (len(predicted) + len(gold)) if predicted or gold else 1.0
