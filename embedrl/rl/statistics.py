"""Figures of a step: lengths, truncation, how much evidence rollouts refer to, seconds. Source: Embed-RL Fig. 5."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

from embedrl.data.lenient_render import REPAIRS
from embedrl.rl.types import Rollout, RolloutStep
from embedrl.tcot.chat import side_of
from embedrl.types import Modality


def rollout_figures(step: RolloutStep, rollouts: Sequence[Rollout], group_size: int) -> dict[str, float]:
    """Means over rollouts.

    Args:
        step: The step.
        rollouts: This process's rollouts.
        group_size: Rollouts per prompt.

    Returns:
        `rollout/length` in tokens, `rollout/truncated`, `rollout/unique` (different texts in a group, as a share),
        `rollout/evidence_<modality>` (keywords, boxes or key frames a T-CoT) of the modalities there are, and the share
        of rollouts with each of the `REPAIRS`, such as `rollout/evidence_dropped`.
    """
    if not rollouts:
        return {}
    evidence: dict[Modality, list[int]] = defaultdict(list)
    for rollout in rollouts:
        modality = side_of(step.pairs[rollout.pair], rollout.role).modality
        evidence[modality].append(len(step.parsed[rollout.id].tcot.cues.of(modality)))
    figures = length_figures(rollouts, group_size)
    figures |= {f"rollout/{name}": step.repairs.get(name, 0) / len(rollouts) for name in REPAIRS}
    return figures | {f"rollout/evidence_{m}": sum(entries) / len(entries) for m, entries in evidence.items()}


def length_figures(rollouts: Sequence[Rollout], group_size: int) -> dict[str, float]:
    """Means over rollouts that their texts alone decide: `rollout/length`, `rollout/truncated`, `rollout/unique`.

    Args:
        rollouts: This process's rollouts.
        group_size: Rollouts per prompt.
    """
    if not rollouts:
        return {}
    texts: dict[str, set[str]] = defaultdict(set)
    for rollout in rollouts:
        texts[rollout.group].add(rollout.text)
    return {
        "rollout/length": sum(len(rollout.tokens) for rollout in rollouts) / len(rollouts),
        "rollout/truncated": sum(rollout.truncated for rollout in rollouts) / len(rollouts),
        "rollout/unique": sum(len(entries) for entries in texts.values()) / (len(texts) * group_size),
    }


class PhaseClock:
    """Seconds of each phase of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End a phase; the next one starts."""
        now = time.perf_counter()
        self.seconds[name] = max(now - self._last, 1e-9)
        self._last = now
