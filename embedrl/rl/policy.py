"""Log-probabilities of rollouts under the policy and under its reference. Source: Embed-RL §3.3, Eq. 6."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from embedrl.data.inputs import ModelInputs
from embedrl.errors import ConfigError
from embedrl.models.dropout import without_dropout
from embedrl.models.packing import IGNORE, cut_by_tokens
from embedrl.models.policy_generator import PolicyGenerator
from embedrl.types import Chat

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PolicyOptions:
    """How the policy pass is divided into batches, on which the results do not depend, and what it computes.

    Attributes:
        shared_prefix: Compute a prompt with its pictures once for all replies of its group, in one row; false computes
            it for every reply, as generators without `packs_replies` always do.
        max_tokens_per_row: About how many tokens such a row may have: it goes through the model at once, so a larger
            group is spread over several rows, each with the prompt.
        max_tokens: About how many tokens, padding included, go through the model at once; at least one row does.
        correct_top_p: Compute log-probabilities among the tokens that `rollout.top_p` keeps, as they were drawn, and
            their gradients and the KL with them; false computes them among all tokens, whatever was drawn from. A drawn
            token always counts as kept. The only option that changes the results.
    """

    shared_prefix: bool = True
    max_tokens_per_row: int = 4096
    max_tokens: int = 8192
    correct_top_p: bool = False

    def __post_init__(self) -> None:
        for name in ("max_tokens_per_row", "max_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"policy.{name} is {getattr(self, name)}: give 1 or more")


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt and its replies.

    Attributes:
        prompt: The prompt.
        replies: Token ids of each reply (`Rollout.tokens`), as many as there are.
        inputs: The prompt as model inputs, one row on the CPU; None lets the policy process it.
    """

    prompt: Chat
    replies: Sequence[Sequence[int]]
    inputs: ModelInputs | None = None


@dataclass
class PolicyBatch:
    """What goes through the policy at once.

    Attributes:
        pack: Makes the network's inputs, on the CPU: anew for every pass, so that the pixels of one batch at a time are
            in memory beside those of the prompts.
        replies: For each row of the results: (position of the group, position of the reply in it).
        seen: What the policy's frozen vision tower made of the pictures (see `cache_vision_features`).
    """

    pack: Callable[[], ModelInputs]
    replies: list[tuple[int, int]]
    seen: list[Any] = field(default_factory=list)


@dataclass
class ReplyLogprobs:
    """What a pass returns, `[replies, T]` each, replies in the order of `PolicyBatch.replies`.

    Attributes:
        logprobs: Log-probability of each token, 0 where there is none.
        entropy: Entropy in nats of the distribution it was drawn from, 0 where there is none.
        mask: Where there is a token.
    """

    logprobs: Tensor
    entropy: Tensor
    mask: Tensor


class Policy:
    """The policy pass, without dropout: the ratio of a fresh rollout must be 1. The generator stays as it was.

    Args:
        generator: The policy, built.
        options: How to divide it into batches.
        temperature: Temperature at which the rollouts were drawn; greedy ones count as 1.
        reference: Another model as reference, built; None means the policy with its adapter off.
        top_p: The share of probability that the rollouts were drawn from.
    """

    def __init__(
        self,
        generator: PolicyGenerator,
        options: PolicyOptions | None = None,
        temperature: float = 1.0,
        reference: PolicyGenerator | None = None,
        top_p: float = 1.0,
    ) -> None:
        self.generator, self.options = generator, options or PolicyOptions()
        self.temperature = temperature or 1.0
        self._top_p = top_p if self.options.correct_top_p else 1.0
        self.unexplained_top_p = 1.0 if self.options.correct_top_p else top_p
        self._reference = reference
        if self.options.shared_prefix and not generator.packs_replies:
            _log.warning(
                "policy.shared_prefix: a %s cannot keep replies in one row apart, so each has a row of its own, which "
                "reads the prompt again; false gives the same",
                type(generator).__name__,
            )

    def batches(self, groups: Sequence[Group]) -> list[PolicyBatch]:
        """Cut groups into batches of rows of like length; every reply is in exactly one, and empty replies in none."""
        options, preprocessor = self.options, self.generator.preprocessor()
        shared = options.shared_prefix and self.generator.packs_replies
        missing = iter(preprocessor.prompt_rows([group.prompt for group in groups if group.inputs is None]))
        prompts = [next(missing) if group.inputs is None else group.inputs for group in groups]
        rows: list[tuple[int, int, list[int]]] = []  # length, group, its replies
        for number, group in enumerate(groups):
            prompt = preprocessor.length(group.prompt)
            for replies, tokens in _split(group.replies, options.max_tokens_per_row - prompt, shared):
                rows.append((prompt + tokens, number, replies))
        rows.sort()
        cut = cut_by_tokens([length for length, _, _ in rows], options.max_tokens)
        parts = [[rows[i] for i in part] for part in cut]

        def packed(part: list[tuple[int, int, list[int]]]) -> ModelInputs:
            rows = preprocessor.join([prompts[number] for _, number, _ in part])
            replies = [[groups[number].replies[i] for i in chosen] for _, number, chosen in part]
            return self.generator.pack(rows, replies)

        return [
            PolicyBatch(partial(packed, part), [(number, i) for _, number, replies in part for i in replies])
            for part in parts
        ]

    def log_probs(self, batch: PolicyBatch) -> ReplyLogprobs:
        """Log-probabilities of a batch's tokens under the policy, with gradients if they are enabled."""
        return self._pass(self.generator, batch)

    @torch.no_grad()
    def reference_log_probs(self, batch: PolicyBatch) -> ReplyLogprobs:
        """Log-probabilities of a batch's tokens under the reference.

        Raises:
            ConfigError: If there is none.
        """
        with self.reference() as generator:
            return self._pass(generator, batch)

    @property
    def reference_model(self) -> PolicyGenerator:
        """The model that `reference` yields, its adapter perhaps on."""
        return self._reference or self.generator

    @contextmanager
    def reference(self) -> Iterator[PolicyGenerator]:
        """The model before this training: another one if it was given, else the policy with its adapter off.

        Raises:
            ConfigError: If none was given and there is no adapter to switch off.
        """
        if self._reference is not None:
            yield self._reference
            return
        network = self.generator.network
        if not isinstance(network, PeftModel):
            raise ConfigError(
                "the policy has no reference: without LoRA nothing of the initial policy is left. "
                "Use LoRA (generator.lora) or give a reference checkpoint"
            )
        with network.disable_adapter():
            yield self.generator

    def _pass(self, generator: PolicyGenerator, batch: PolicyBatch) -> ReplyLogprobs:
        device = next(generator.parameters()).device
        inputs = {name: value.to(device, non_blocking=True) for name, value in batch.pack().items()}
        # Another model as reference has a vision tower of its own: its features are not cached.
        seen = generator.cache_vision_features(batch.seen) if generator is self.generator else nullcontext()
        with seen, without_dropout(generator):
            logprobs, entropy = generator.reply_logprobs(inputs, self.temperature, self._top_p)
        return ReplyLogprobs(logprobs, entropy, inputs["labels"] != IGNORE)


class ReferenceScorer:
    """The reference model as a discriminator; implements `ChoiceScorer`.

    Args:
        policy: The policy whose reference to use.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    @torch.no_grad()
    def score_choices(self, prompts: list[Chat], choices: list[list[str]]) -> list[Tensor]:
        """See `ChoiceScorer`."""
        with self.policy.reference() as generator, without_dropout(generator):
            return generator.score_choices(prompts, choices, self.policy.options.max_tokens)

    def fits(self, prompt: Chat) -> bool:
        """See `KnowsItsLimit`."""
        return self.policy.reference_model.fits(prompt)


def _split(replies: Sequence[Sequence[int]], room: int, shared: bool) -> Iterator[tuple[list[int], int]]:
    """Cut a group into rows of at most `room` tokens of replies, in order; a row has at least one reply.

    Yields:
        The positions of the row's replies, and how many tokens they have together.
    """
    row: list[int] = []
    tokens = 0
    for i, reply in enumerate(replies):
        if not reply:
            continue
        if row and (not shared or tokens + len(reply) > room):
            yield row, tokens
            row, tokens = [], 0
        row.append(i)
        tokens += len(reply)
    if row:
        yield row, tokens
