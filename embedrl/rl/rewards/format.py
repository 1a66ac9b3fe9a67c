"""Format reward: does the rollout follow the template? Source: Embed-RL §3.3, Eq. 3."""

from __future__ import annotations

from embedrl.rl.types import RewardResult, Rollout, RolloutStep


class FormatReward:
    """R_f = 1 if the T-CoT parses without a problem and was not cut off, else 0.

    The parser's strict verdict: three closed sections in order, and exactly one cue object with the key that the side's
    modality requires. `"bbox_2d": [x1, y1, x2, y2]` is one box, as the paper's examples write it.

    Args:
        strict_boxes: Ask for a list of boxes, `[[x1, y1, x2, y2]]`, also where there is one.

    >>> from embedrl.rl.types import Rollout
    >>> from embedrl.tcot.parser import build, parse
    >>> from embedrl.types import Modality, Pair, Role, Side
    >>> good = build(Modality.TEXT, "Look.", "Only the cat.", "A cat.", keywords=["cat"]).render()
    >>> texts = [good, good[:-9], "a cat"]
    >>> rollouts = [Rollout(0, Role.QUERY, i, (), (), text) for i, text in enumerate(texts)]
    >>> pair = Pair(Side("a cat"), Side("A cat sits."), "demo", "0")
    >>> parsed = {rollout.id: parse(rollout.text, Modality.TEXT) for rollout in rollouts}
    >>> FormatReward()(RolloutStep([pair], rollouts, {}, parsed, frozenset(parsed))).values
    {'0/query/0': 1.0, '0/query/1': 0.0, '0/query/2': 0.0}
    """

    name = "format"

    def __init__(self, strict_boxes: bool = False) -> None:
        self.strict_boxes = strict_boxes

    def __call__(self, step: RolloutStep) -> RewardResult:
        """Score the rollouts of this process."""
        return RewardResult({r.id: self._value(step, r) for r in step.rollouts if r.id in step.mine})

    def _value(self, step: RolloutStep, rollout: Rollout) -> float:
        read = step.parsed[rollout.id]
        return float(read.ok and not rollout.truncated and not (self.strict_boxes and read.one_box))
