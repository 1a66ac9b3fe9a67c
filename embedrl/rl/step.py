"""One EG-RL step up to its rewards: prompts, rollouts, vectors, gathered over processes. Source: Embed-RL §3.3."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from embedrl.distributed.collectives import gather_objects
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.rl.policy import Group
from embedrl.rl.rollout import RolloutEngine
from embedrl.rl.types import Rollout, RolloutStep
from embedrl.tcot.chat import counterpart_of, reasoning_chat, side_of
from embedrl.tcot.parser import parse
from embedrl.tcot.prompts import Style
from embedrl.tcot.schema import ParseResult
from embedrl.types import Chat, Pair, Role, Side


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the policy is asked about one side.

    Attributes:
        pair: Position of the pair in the step, over all processes.
        role: Which side.
        side: The side.
        chat: The prompt.
    """

    pair: int
    role: Role
    side: Side
    chat: Chat

    @property
    def group(self) -> str:
        """`Rollout.group` of its rollouts."""
        return f"{self.pair}/{self.role}"


def make_prompts(pairs: Sequence[Pair], first: int, style: Style) -> list[Prompt]:
    """The prompts of both sides of every pair.

    Args:
        pairs: This process's pairs.
        first: Position of the first one in the step.
        style: Style of the prompts.

    Raises:
        DataError: If a side is empty or a picture is broken.
    """
    return [
        Prompt(
            i, role, side_of(pair, role), reasoning_chat(side_of(pair, role), role, counterpart_of(pair, role), style)
        )
        for i, pair in enumerate(pairs, first)
        for role in (Role.QUERY, Role.TARGET)
    ]


def roll_out(engine: RolloutEngine, prompts: Sequence[Prompt], n: int, number: int) -> list[Rollout]:
    """Sample n rollouts a prompt.

    Args:
        engine: What writes.
        prompts: This process's prompts.
        n: Rollouts a prompt (G).
        number: Number of the step: another one, other draws.
    """
    replies = engine.generate([p.chat for p in prompts], n, [p.group for p in prompts], number)
    return [
        Rollout(p.pair, p.role, i, sample.tokens, sample.logprobs, sample.text, sample.truncated)
        for p, samples in zip(prompts, replies, strict=True)
        for i, sample in enumerate(samples)
    ]


def make_step(
    pairs: Sequence[Pair],
    rollouts: Sequence[Rollout],
    embedder: FrozenEmbedder,
    device: torch.device,
    seed: int,
) -> RolloutStep:
    """Embed this process's rollouts and put the whole step together.

    Args:
        pairs: The pairs of all processes.
        rollouts: This process's rollouts.
        embedder: The frozen Embedder.
        device: Where it embeds.
        seed: Seed of what rewards draw.

    Raises:
        NonFiniteError: If a vector is NaN or infinite.
    """
    sides = [side_of(pairs[r.pair], r.role).with_tcot(r.text) for r in rollouts]
    where = [f"{pairs[r.pair].dataset}/{pairs[r.pair].id} rollout {r.id}" for r in rollouts]
    vectors = embedder.embed(sides, where, device).cpu()
    own: list[tuple[Rollout, Tensor]] = list(zip(rollouts, vectors, strict=True))
    everything = gather_objects(own)
    return RolloutStep(
        pairs,
        [rollout for rollout, _ in everything],
        {rollout.id: vector for rollout, vector in everything},
        {r.id: _parsed(pairs[r.pair], r) for r, _ in everything},
        frozenset(rollout.id for rollout in rollouts),
        seed,
    )


def _parsed(pair: Pair, rollout: Rollout) -> ParseResult:
    side = side_of(pair, rollout.role)
    return parse(rollout.text, side.modality, len(side.frames) or None)


def step_seed(seed: int, number: int) -> int:
    """A seed for step `number` that no other step shares."""
    return int.from_bytes(hashlib.sha256(f"step/{seed}/{number}".encode()).digest()[:4])


def kept_groups(
    prompts: Sequence[Prompt], rollouts: Sequence[Rollout], advantages: Mapping[str, float] | None = None
) -> tuple[list[Group], list[list[Rollout]]]:
    """The groups with the rollouts that have an advantage (None: all), as the policy pass takes them."""
    members: dict[str, list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        if advantages is None or rollout.id in advantages:
            members[rollout.group].append(rollout)
    used = [prompt for prompt in prompts if members[prompt.group]]
    groups = [Group(prompt.chat, [r.tokens for r in members[prompt.group]]) for prompt in used]
    return groups, [members[prompt.group] for prompt in used]
