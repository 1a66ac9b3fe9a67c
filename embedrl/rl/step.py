"""One EG-RL step up to its rewards: prompts, rollouts, vectors, gathered over processes. Source: Embed-RL §3.3."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from embedrl.data.inputs import ModelInputs, Preprocessor
from embedrl.data.lenient_render import HasLimit
from embedrl.data.render import RenderOptions, render
from embedrl.data.variants import Variant
from embedrl.distributed.collectives import gather_objects
from embedrl.errors import DataError, TooLongError
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.models.policy_generator import PolicyPreprocessor
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
    """The prompt of the policy for one side.

    Attributes:
        pair: Position of the pair in the step, over all processes.
        role: Which side.
        side: The side.
        chat: The prompt.
        inputs: The prompt as model inputs: one row, on the CPU.
    """

    pair: int
    role: Role
    side: Side
    chat: Chat
    inputs: ModelInputs

    @property
    def group(self) -> str:
        """`Rollout.group` of its rollouts."""
        return f"{self.pair}/{self.role}"


def make_prompts(pairs: Sequence[Pair], first: int, style: Style, preprocessor: PolicyPreprocessor) -> list[Prompt]:
    """The prompts of both sides of every pair, processed once: rollouts and policy pass read the same inputs.

    Args:
        pairs: This process's pairs, their pictures in memory.
        first: Position of the first one in the step.
        style: Style of the prompts.
        preprocessor: The policy's.

    Raises:
        DataError: If a side is empty or its prompt cannot be processed; the message begins with `dataset/id`.
    """
    places = [(i, pair, role) for i, pair in enumerate(pairs, first) for role in (Role.QUERY, Role.TARGET)]
    chats = []
    for _, pair, role in places:
        with _naming(pair, role):
            chats.append(reasoning_chat(side_of(pair, role), role, counterpart_of(pair, role), style))
    try:
        rows = preprocessor.prompt_rows(chats)
    except DataError:
        for (_, pair, role), chat in zip(places, chats, strict=True):
            with _naming(pair, role):
                preprocessor.prompts([chat])
        raise
    return [
        Prompt(i, role, side_of(pair, role), chat, row)
        for (i, pair, role), chat, row in zip(places, chats, rows, strict=True)
    ]


@contextmanager
def _naming(pair: Pair, role: Role) -> Iterator[None]:
    """Put the name of the side in front of an error."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{pair.dataset}/{pair.id} ({role}): {error}") from error


@dataclass(frozen=True)
class PairCheck:
    """Sees that the policy and the frozen Embedder can read a pair; without weights, so it runs in loader workers.

    Attributes:
        policy: The policy's preprocessor.
        embedder: The Embedder's preprocessor.
        render: What the Embedder reads of a side, leniently.
        style: Style of the prompts.
    """

    policy: PolicyPreprocessor
    embedder: Preprocessor
    render: RenderOptions
    style: Style

    def __call__(self, pair: Pair) -> None:
        """Look at both sides of a pair whose pictures are in memory.

        Raises:
            DataError: If one cannot be read; the message begins with `dataset/id`.
        """
        for role in Role:
            with _naming(pair, role):
                side = side_of(pair, role)
                chat = reasoning_chat(side, role, counterpart_of(pair, role), self.style)
                if not self.policy.fits(chat, prompt=True):
                    raise TooLongError(f"its prompt has more tokens than the policy's {self.policy.max_length}")
                chat = render(side.with_tcot(""), self.render)
                if isinstance(self.embedder, HasLimit) and not self.embedder.fits(chat):
                    raise TooLongError("it has more tokens than the Embedder reads, even without a T-CoT")


def roll_out(engine: RolloutEngine, prompts: Sequence[Prompt], n: int, number: int) -> list[Rollout]:
    """Sample n rollouts per prompt.

    Args:
        engine: The engine that writes them.
        prompts: This process's prompts.
        n: Rollouts per prompt (G).
        number: Number of the step: another one, other draws.
    """
    chats, names = [p.chat for p in prompts], [p.group for p in prompts]
    replies = engine.generate(chats, n, names, number, [p.inputs for p in prompts])
    return [
        Rollout(p.pair, p.role, i, sample.tokens, sample.logprobs, sample.text, sample.truncated)
        for p, samples in zip(prompts, replies, strict=True)
        for i, sample in enumerate(samples)
    ]


def make_step(
    pairs: Sequence[Pair],
    prompts: Sequence[Prompt],
    rollouts: Sequence[Rollout],
    embedder: FrozenEmbedder,
    device: torch.device,
    seed: int,
    variants: Sequence[Variant] = (),
) -> RolloutStep:
    """Embed this process's rollouts and put the whole step together.

    Args:
        pairs: The pairs of all processes.
        prompts: This process's prompts.
        rollouts: This process's rollouts.
        embedder: The frozen Embedder.
        device: Where it embeds.
        seed: Seed of random draws in rewards.
        variants: Parts of the T-CoTs to embed as well, in the same pass.

    Raises:
        NonFiniteError: If a vector is NaN or infinite.
    """
    side_by_group = {prompt.group: prompt.side for prompt in prompts}
    sides = [side_by_group[r.group].with_tcot(r.text) for r in rollouts]
    where = [f"{pairs[r.pair].dataset}/{pairs[r.pair].id} rollout {r.id}" for r in rollouts]
    parsed = [parse(side.tcot, side.modality, len(side.frames) or None) for side in sides]
    repairs: Counter[str] = Counter()
    vectors, *others = embedder.embed_variants(sides, where, device, variants, parsed, repairs).cpu()
    own: list[tuple[Rollout, Tensor, ParseResult]] = list(zip(rollouts, vectors, parsed, strict=True))
    ids = [rollout.id for rollout in rollouts]
    everything = gather_objects(own)
    return RolloutStep(
        pairs,
        [rollout for rollout, _, _ in everything],
        {rollout.id: vector for rollout, vector, _ in everything},
        {rollout.id: result for rollout, _, result in everything},
        frozenset(ids),
        seed,
        repairs,
        dict(zip(variants, (dict(zip(ids, part, strict=True)) for part in others), strict=True)),
    )


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
    groups = [Group(p.chat, [r.tokens for r in members[p.group]], p.inputs) for p in used]
    return groups, [members[prompt.group] for prompt in used]
