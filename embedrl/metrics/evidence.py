"""How many cues T-CoTs name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from embedrl.tcot.parser import parse
from embedrl.types import Modality, RetrievalTask


def evidence_counts(tasks: Sequence[RetrievalTask]) -> dict[Modality, float]:
    """Mean number of cues (keywords, boxes, key frames) of the sides of each modality; equal sides count once.

    Source: Embed-RL Fig. 5.

    Args:
        tasks: The tasks, their sides with T-CoTs.
    """
    counts: dict[Modality, list[int]] = defaultdict(list)
    sides = [side for task in tasks for group in (task.queries, task.candidates) for side in group]
    for side in {(side.key, side.tcot): side for side in sides}.values():
        cues = parse(side.tcot, side.modality, len(side.frames) or None).tcot.cues
        counts[side.modality].append(len(cues.of(side.modality)))
    return {modality: sum(numbers) / len(numbers) for modality, numbers in sorted(counts.items())}
