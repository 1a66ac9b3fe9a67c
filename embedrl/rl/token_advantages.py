"""The advantage of every token: that of its rollout, and what its section of the T-CoT earned beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from embedrl.errors import ConfigError
from embedrl.rl.advantages import Scale, group_advantages
from embedrl.rl.rewards.combine import StepRewards
from embedrl.rl.types import Rollout
from embedrl.tcot.schema import SECTIONS


@dataclass(frozen=True)
class AdvantageOptions:
    """What becomes of rewards on the way to advantages; the defaults are Embed-RL's Eq. 6.

    Attributes:
        scale: `none` does not divide a group's rewards by their standard deviation, `best` is cross-entropy on the best
            rollout of each group: see `group_advantages`.
        mask_truncated: Leave rollouts that reached the length limit out of the policy step; they still count in their
            group's mean. Source: Yu et al. 2025, "DAPO" (2503.14476), overlong filtering.
        sft_weight: Added to the advantage of every rollout that passes the gates: the gradient is that of
            cross-entropy on them with this weight (with `inner_epochs` above 1, clipped with the rest). 0.1 is a
            start. Source: dual-gated SFT of Process-Outcome Credit / MIG (2602.01034), L_SFT with γ.
        sft_gates: The least value of each reward, by name, that a rollout needs to pass: `{format: 1, outcome: 0.3}` is
            the right form and the right answer.
    """

    scale: Scale = "group"
    mask_truncated: bool = False
    sft_weight: float = 0.0
    sft_gates: dict[str, float] = field(default_factory=dict)

    def check(self, rewards: Sequence[str]) -> None:
        """See that the gates are rewards.

        Args:
            rewards: Their names.

        Raises:
            ConfigError: If one is not, there are gates without a weight, or a weight without gates.
        """
        unknown = [name for name in self.sft_gates if name not in rewards]
        if unknown:
            raise ConfigError(
                f"model.advantages.sft_gates names {unknown[0]!r}, which is no reward of this training: give any of "
                f"{', '.join(rewards)}"
            )
        if not self.sft_weight >= 0 or bool(self.sft_weight) != bool(self.sft_gates):
            raise ConfigError(
                f"model.advantages.sft_weight is {self.sft_weight}, sft_gates {self.sft_gates}: give a number above 0 "
                "with gates, such as {format: 1, outcome: 0.3}, or neither"
            )


@dataclass(frozen=True, slots=True)
class TokenAdvantages:
    """Advantages by rollout id; a rollout that is not here takes no part in the policy step.

    Attributes:
        values: What every token of a rollout has.
        sections: What the tokens of each section have beside it, where a reward gives them any.
        ends: Of those rollouts, how many tokens there are up to the end of each section.
    """

    values: Mapping[str, float]
    sections: Mapping[str, tuple[float, ...]]
    ends: Mapping[str, tuple[int, ...]]

    def of(self, rollouts: Sequence[Rollout], shape: Sequence[int], device: torch.device) -> Tensor:
        """The advantages as the loss takes them: `[rollouts]`, or `[rollouts, tokens]` if sections have any.

        Args:
            rollouts: The rollouts of a micro-batch; none gives zeros.
            shape: Its rollouts and tokens.
            device: Where.
        """
        values = torch.tensor([self.values[r.id] for r in rollouts] or [0.0] * shape[0], device=device)
        if not self.sections:
            return values
        tokens = values[:, None].repeat(1, shape[1])
        for row, rollout in enumerate(rollouts):
            start = 0
            for extra, end in zip(self.sections.get(rollout.id, ()), self.ends.get(rollout.id, ()), strict=True):
                tokens[row, start:end] += extra
                start = end
        return tokens


def token_advantages(
    rewards: StepRewards,
    rollouts: Sequence[Rollout],
    decode: Callable[[Sequence[int]], str],
    std_floor: float = 0.0,
    filter_groups: bool = False,
    options: AdvantageOptions = AdvantageOptions(),
) -> tuple[TokenAdvantages, dict[str, float]]:
    """Rewards → advantages, see `group_advantages`; those of sections are normalised in the same way, each by itself.

    Args:
        rewards: The rewards of this process's rollouts.
        rollouts: Them.
        decode: The text of a reply's first tokens.
        std_floor: See `group_advantages`.
        filter_groups: See `group_advantages`; a group in which any section's rewards differ stays.
        options: What else to do.

    Returns:
        The advantages, and `advantage/zero_variance`, `advantage/no_verdict` and, with gates, `advantage/gated`.
    """
    groups = {rollout.id: rollout.group for rollout in rollouts}
    whole = group_advantages(rewards.totals, groups, std_floor, filter_groups, options.scale)
    sections: dict[str, list[float]] = {}
    for weight, gains in rewards.sections:
        for k in range(len(SECTIONS)):
            column = {name: None if row is None else row[k] for name, row in gains.items()}
            normal = group_advantages(column, groups, std_floor, filter_groups, options.scale).values
            for name, value in normal.items():
                sections.setdefault(name, [0.0] * len(SECTIONS))[k] += weight * value
    left_out = {r.id for r in rollouts if r.truncated} if options.mask_truncated else set()
    judged = {name for name, total in rewards.totals.items() if total is not None}
    gated = _gated(rewards, options.sft_gates) if options.sft_weight else set()
    there = whole.values.keys() | ((sections.keys() | gated) & judged)
    values = {name: whole.values.get(name, 0.0) for name in groups if name in there and name not in left_out}
    values |= {name: values[name] + options.sft_weight for name in gated if name in values}
    kept = {name: tuple(row) for name, row in sections.items() if name in values}
    ends = {r.id: section_ends(r.tokens, decode) for r in rollouts if r.id in kept}
    figures = {
        "advantage/zero_variance": whole.zero_variance / max(whole.groups, 1),
        "advantage/no_verdict": whole.no_verdict / max(len(rollouts), 1),
    }
    if options.sft_weight:
        figures["advantage/gated"] = len(gated) / max(len(rollouts), 1)
    return TokenAdvantages(values, kept, ends), figures


def _gated(rewards: StepRewards, gates: Mapping[str, float]) -> set[str]:
    """The rollouts whose rewards are at least those of the gates."""
    passed = set(rewards.totals)
    for name, least in gates.items():
        passed &= {rollout for rollout, value in rewards.parts[name].items() if value is not None and value >= least}
    return passed


def section_ends(tokens: Sequence[int], decode: Callable[[Sequence[int]], str]) -> tuple[int, ...]:
    """How many tokens there are up to the end of each section; what follows the last one's tag belongs to it.

    A section that does not end holds all that follows, and those after it nothing.

    Args:
        tokens: A reply.
        decode: The text of its first tokens.

    >>> text = "<thinking>a</thinking><rethink>b</rethink><answer>c</answer>."
    >>> section_ends(range(len(text)), lambda tokens: text[: len(tokens)])
    (22, 42, 61)
    """
    ends: list[int] = []
    for name in SECTIONS[:-1]:
        low, high = ends[-1] if ends else 0, len(tokens)
        while low < high:  # the fewest tokens whose text holds the tag
            middle = (low + high) // 2
            low, high = (low, middle) if f"</{name}>" in decode(tokens[:middle]) else (middle + 1, high)
        ends.append(low)
    return (*ends, len(tokens))
