"""Rollouts: the policy writes G replies per prompt. Source: Embed-RL §3.3, B.2."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from embedrl.data.inputs import ModelInputs
from embedrl.distributed.unshard import unsharded
from embedrl.errors import ConfigError
from embedrl.models.dropout import evaluating
from embedrl.models.policy_generator import PolicyGenerator
from embedrl.models.sampling import SampledReply, SamplingOptions
from embedrl.types import Chat
from embedrl.utils.run_seed import run_seed


@dataclass(frozen=True)
class RolloutOptions(SamplingOptions):
    """How rollouts are drawn.

    Attributes:
        max_sequences: Replies written at once on a process; a group stays together, whatever its size.
        seed: Seed of all draws; None: the module's.
    """

    max_sequences: int = 64
    seed: int | None = None

    def __post_init__(self) -> None:
        SamplingOptions.__post_init__(self)
        if self.max_sequences < 1:
            raise ConfigError(f"rollout.max_sequences is {self.max_sequences}: give 1 or more")


class RolloutEngine(Protocol):
    """The engine that writes the rollouts of one process."""

    def generate(
        self,
        prompts: Sequence[Chat],
        n: int,
        keys: Sequence[str],
        step: int = 0,
        inputs: Sequence[ModelInputs] | None = None,
    ) -> list[list[SampledReply]]:
        """Write n replies per prompt.

        Args:
            prompts: The prompts, possibly none; other processes may have more or fewer. All processes call together.
            n: Replies per prompt.
            keys: The prompts' names in the step (`Rollout.group`), each once. Seed, step and key decide what is drawn,
                whichever process draws it and whatever else it draws.
            step: Number of the step.
            inputs: Each prompt as the policy's inputs, one row on the CPU; None lets the engine process the prompts.

        Returns:
            The replies of each prompt, in the order of the prompts.
        """
        ...


class RemoteEngine(RolloutEngine, Protocol):
    """An engine that is not the policy itself, and may therefore draw by other log-probabilities.

    Attributes:
        max_mismatch: Training stops if they differ from the policy's by more than this, in nats, in the mean over a
            step's tokens; None never stops.
        base_url: Its address, for errors.
    """

    max_mismatch: float | None
    base_url: str

    def bind(self, generator: PolicyGenerator, options: RolloutOptions) -> None:
        """Take the policy, built, and how to draw; called before the first rollout of a run."""
        ...


class LocalRollout:
    """Writes with the policy itself, in this process; prompts of like length share a micro-batch.

    Args:
        generator: The policy, built, and sharded if it ever is.
        options: How to draw.
    """

    def __init__(self, generator: PolicyGenerator, options: RolloutOptions) -> None:
        self.generator, self.options = generator, options

    def generate(
        self,
        prompts: Sequence[Chat],
        n: int,
        keys: Sequence[str],
        step: int = 0,
        inputs: Sequence[ModelInputs] | None = None,
    ) -> list[list[SampledReply]]:
        """See `RolloutEngine.generate`.

        Raises:
            ValueError: If a key occurs twice: both prompts would draw by the same numbers.
        """
        if len(set(keys)) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts need as many different keys, not {list(keys)}")
        preprocessor = self.generator.preprocessor()
        device = next(self.generator.parameters()).device
        rows = preprocessor.prompt_rows(prompts) if inputs is None else inputs
        order = sorted(range(len(prompts)), key=lambda i: preprocessor.length(prompts[i]))
        size = max(1, self.options.max_sequences // n)
        replies: dict[int, list[SampledReply]] = {}
        seed = run_seed(self.options.seed, "rollout.seed")
        with unsharded(self.generator), evaluating(self.generator):
            for start in range(0, len(order), size):
                part = order[start : start + size]
                batch = {name: value.to(device) for name, value in preprocessor.join([rows[i] for i in part]).items()}
                seeds = [draw_seed(seed, step, keys[i]) for i in part]
                replies |= zip(part, self.generator.sample(batch, n, seeds, self.options), strict=True)
        return [replies[i] for i in range(len(prompts))]


def draw_seed(seed: int, step: int, key: str) -> int:
    """The seed of one group's draws: 63 bits that depend on all three."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{key}".encode()).digest()[:8]) >> 1
