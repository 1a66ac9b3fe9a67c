"""The data of one EG-RL step: rollouts, and what rewards read and return. Source: Embed-RL §3.3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from embedrl.data.variants import Variant
from embedrl.tcot.schema import ParseResult
from embedrl.types import Pair, Role


@dataclass(frozen=True, slots=True)
class Rollout:
    """One T-CoT sampled from the policy.

    Attributes:
        pair: Position of its pair in the step, over all processes.
        role: The side of the pair that it describes.
        index: Its number in its group, 0 .. G - 1.
        tokens: Token ids of the reply, with the one that ended it.
        logprobs: Log-probability of each token in the distribution it was drawn from, whatever engine drew it: the
            policy's at `rollout.temperature`, among the tokens that `rollout.top_p` keeps. The policy pass computes the
            policy's among all tokens, which is at most -log(top_p) less.
        text: The reply as text, without the end-of-turn token.
        truncated: Whether it reached the length limit before it ended.
    """

    pair: int
    role: Role
    index: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    truncated: bool = False

    @property
    def group(self) -> str:
        """Name of the rollouts that share its prompt: their advantages are normalised together."""
        return f"{self.pair}/{self.role}"

    @property
    def id(self) -> str:
        """Its name in the step; whatever belongs to a rollout is keyed by it, never by position."""
        return f"{self.group}/{self.index}"


@dataclass(frozen=True, slots=True)
class RolloutStep:
    """Everything that a reward may read: all rollouts of all processes, of pairs of one data set.

    Attributes:
        pairs: The pairs, by `Rollout.pair`.
        rollouts: The rollouts of both sides, in any order.
        vectors: Unit vector `[dim]` of each rollout's side + T-CoT + evidence, by id, from the frozen Embedder.
        parsed: The parse result of each rollout, by id.
        mine: Ids of the rollouts that this process scores; a costly reward may leave the others out.
        seed: Seed of what a reward draws; the same on all processes, another one each step.
        repairs: How many rollouts of this process had to be repaired before the Embedder could read them, by kind: see
            `data.lenient_render`.
        variants: Unit vectors of parts of this process's T-CoTs, by variant and id, as far as a reward asks for them.
    """

    pairs: Sequence[Pair]
    rollouts: Sequence[Rollout]
    vectors: Mapping[str, Tensor]
    parsed: Mapping[str, ParseResult]
    mine: frozenset[str]
    seed: int = 0
    repairs: Mapping[str, int] = field(default_factory=dict)
    variants: Mapping[Variant, Mapping[str, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RewardResult:
    """The values of a reward in one step.

    Attributes:
        values: Reward by rollout id, at least of `RolloutStep.mine`; None is no verdict: the rollout then takes no part
            in the advantage.
        metrics: Further figures to log, by name.
        sections: What each section of a T-CoT earned (`embedrl.tcot.schema.SECTIONS`), by rollout id, None being no
            verdict. A reward that gives them is no part of the total: they count for their section's tokens alone.
    """

    values: Mapping[str, float | None]
    metrics: Mapping[str, float] = field(default_factory=dict)
    sections: Mapping[str, tuple[float, ...] | None] | None = None


class Reward(Protocol):
    """A reward: a callable over the whole step.

    One that gives no verdict in a step of a single pair may say so by an attribute `compares_pairs = True`: training
    with such steps is then refused. One that reads parts of T-CoTs names them in an attribute `variants`.
    """

    @property
    def name(self) -> str:
        """Its name in the log: `reward/<name>`."""
        ...

    def __call__(self, step: RolloutStep) -> RewardResult:
        """Score the rollouts of the step."""
        ...
