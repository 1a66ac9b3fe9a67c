"""The reward of a learned gate: reasoning is paid by what it gains, and charged by the token."""

from __future__ import annotations

from typing import Literal

from embedrl.data.variants import Variant
from embedrl.errors import ConfigError
from embedrl.rl.rewards.comparison import compare_roles, instead, margins
from embedrl.rl.types import RewardResult, Rollout, RolloutStep
from embedrl.types import Role
from embedrl.utils.reserved_words import GEN_TOKEN


class GateReward:
    """R_g = s(o) - s(the side without reasoning) - price · tokens(o).

    s is the mean cosine with the rollouts of the partner (`of: similarity`), or that less the weighted mean cosine with
    those of the other pairs, the margin of `OutcomeReward` (`of: margin`). Some rollouts of the partner reason, some do
    not. The token that ends a rollout costs nothing, so a rollout that does not reason is embedded as the side itself
    and earns exactly 0. Reasoning pays where it earns more than that.

    Args:
        price: What a token costs, in cosine. 0.001: a reasoning of 50 tokens must gain 0.05.
        of: What a reasoning gains in.
        temperature: τ of the margin's weights.
        mask_duplicates: As in `OutcomeReward`.

    Raises:
        ConfigError: If an option is out of its range.

    Source: MMEmb-R1 (arXiv 2604.06156), whose GRPO pays for thinking only where it helps; its formula is not known to
    us, this one is ours.

    >>> import torch
    >>> from embedrl.rl.types import Rollout
    >>> from embedrl.types import Pair, Side
    >>> pairs = [Pair(Side(f"query {i}"), Side(f"target {i}"), "demo", str(i)) for i in range(2)]
    >>> texts = {Role.QUERY: "a b<gen_emb>", Role.TARGET: "<gen_emb>"}
    >>> tokens = {Role.QUERY: (1, 2, 3), Role.TARGET: (3,)}
    >>> rollouts = [Rollout(i, role, 0, tokens[role], (), texts[role]) for i in range(2) for role in Role]
    >>> vectors = {r.id: torch.eye(2)[r.pair] for r in rollouts}
    >>> raw = {r.id: torch.tensor([0.8, 0.6]) if r.role is Role.QUERY else vectors[r.id] for r in rollouts}
    >>> step = RolloutStep(pairs, rollouts, vectors, {}, frozenset(vectors), variants={"none": raw})
    >>> {name: round(value, 3) for name, value in GateReward(price=0.01)(step).values.items()}  # 1 - 0.8 - 2 · 0.01
    {'0/query/0': 0.18, '1/query/0': 0.38, '0/target/0': 0.0, '1/target/0': 0.0}
    """

    name = "gate"
    compares_pairs = True
    variants: tuple[Variant, ...] = ("none",)

    def __init__(
        self,
        price: float = 0.001,
        of: Literal["similarity", "margin"] = "similarity",
        temperature: float = 0.5,
        mask_duplicates: bool = True,
    ) -> None:
        if not 0 <= price < float("inf"):
            raise ConfigError(f"gate.price is {price}: give the cost of a token in cosine, 0 or more, such as 0.001")
        if of not in ("similarity", "margin"):
            raise ConfigError(f"gate.of is {of!r}: give similarity or margin")
        if not temperature > 0:
            raise ConfigError(f"gate.temperature is {temperature}: give a positive number, such as 0.5")
        self.price, self.of, self.temperature, self.mask_duplicates = price, of, temperature, mask_duplicates

    def __call__(self, step: RolloutStep) -> RewardResult:
        """Score the rollouts of this process.

        Raises:
            NonFiniteError: If a vector is NaN or infinite.
        """
        values: dict[str, float | None] = {}
        gains: list[float] = []
        for role in Role:
            comparison = compare_roles(step, role, self.mask_duplicates)
            values |= dict.fromkeys(comparison.unjudged)
            if not comparison.anchors:
                continue
            without = instead(comparison, step, step.variants["none"])
            if self.of == "margin":
                scores = [margins(one, self.temperature, "softmax") for one in (comparison, without)]
            else:
                positive = comparison.positive
                scores = [(one.similarity * positive).sum(1) / positive.sum(1) for one in (comparison, without)]
            for rollout, gain in zip(comparison.anchors, (scores[0] - scores[1]).tolist(), strict=True):
                values[rollout.id] = 0.0
                if reasons(rollout):
                    gains.append(gain)
                    values[rollout.id] = gain - self.price * reasoning_tokens(rollout)
        mine = [rollout for rollout in step.rollouts if rollout.id in step.mine]
        metrics = {"thinking": sum(map(reasons, mine)) / len(mine)} if mine else {}
        if gains:
            metrics |= {"gain": sum(gains) / len(gains), "helped": sum(gain > 0 for gain in gains) / len(gains)}
        return RewardResult(values, metrics)


def reasons(rollout: Rollout) -> bool:
    """Whether a rollout is more than the token that ends it."""
    return bool(rollout.text.removesuffix(GEN_TOKEN).strip())


def reasoning_tokens(rollout: Rollout) -> int:
    """Tokens of a rollout without the one that ended it."""
    return len(rollout.tokens) - (not rollout.truncated)
