"""Format reward of a unified model's rollouts, which end with a token of their own. Source: UME-R1."""

from __future__ import annotations

import re
from typing import Literal

from embedrl.errors import ConfigError
from embedrl.rl.types import RewardResult, Rollout, RolloutStep
from embedrl.tcot.chat import side_of
from embedrl.tcot.parser import parse
from embedrl.utils.reserved_words import GEN_TOKEN

_THINK = re.compile(r"\s*<think>.*?\S.*?</think>\s*<answer>.*?\S.*?</answer>\s*", re.DOTALL)


class ReasoningFormat:
    """R_format = 1 if the rollout ended by itself and follows its template, else 0.

    Args:
        template: `tcot`, the T-CoT's strict verdict; or `think_answer`, one think block and one answer block.
        needs_token: Whether it must end with `<gen_emb>`; false where evidence comes after the reasoning.

    Raises:
        ConfigError: If there is no such template.

    Source: UME-R1 (arXiv 2511.00405), `think_answer` with the token.

    >>> from embedrl.types import Pair, Role, Side
    >>> good = "<think>a cat</think><answer>cat</answer><gen_emb>"
    >>> rollouts = [Rollout(0, Role.QUERY, i, (), (), text) for i, text in enumerate([good, good[:-9], "cat<gen_emb>"])]
    >>> step = RolloutStep([Pair(Side("a"), Side("b"), "d", "0")], rollouts, {}, {}, frozenset(r.id for r in rollouts))
    >>> ReasoningFormat("think_answer")(step).values
    {'0/query/0': 1.0, '0/query/1': 0.0, '0/query/2': 0.0}
    """

    name = "format"

    def __init__(self, template: Literal["tcot", "think_answer"] = "tcot", needs_token: bool = True) -> None:
        if template not in ("tcot", "think_answer"):
            raise ConfigError(f"format.template is {template!r}: give tcot or think_answer")
        self.template, self.needs_token = template, needs_token

    def __call__(self, step: RolloutStep) -> RewardResult:
        """Score the rollouts of this process."""
        return RewardResult({r.id: float(self._follows(step, r)) for r in step.rollouts if r.id in step.mine})

    def _follows(self, step: RolloutStep, rollout: Rollout) -> bool:
        text = rollout.text.removesuffix(GEN_TOKEN)
        if rollout.truncated or (self.needs_token and text == rollout.text):
            return False
        if self.template == "think_answer":
            tags = sum(text.count(tag) for tag in ("<think>", "</think>", "<answer>", "</answer>"))
            return tags == 4 and _THINK.fullmatch(text) is not None
        side = side_of(step.pairs[rollout.pair], rollout.role)
        return parse(text, side.modality, len(side.frames) or None).ok
