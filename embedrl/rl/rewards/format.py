"""Format reward: does the rollout follow the template? Source: Embed-RL §3.3, Eq. 3."""

from __future__ import annotations

from embedrl.rl.types import RewardResult, RolloutStep


class FormatReward:
    """R_f = 1 if the T-CoT parses without a problem and was not cut off, else 0.

    The parser's strict verdict: three closed sections in order, and exactly one cue object with the key that the side's
    modality requires.

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

    def __call__(self, step: RolloutStep) -> RewardResult:
        """Score the rollouts of this process."""
        return RewardResult(
            {r.id: float(step.parsed[r.id].ok and not r.truncated) for r in step.rollouts if r.id in step.mine}
        )
