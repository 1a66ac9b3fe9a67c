"""A discriminator that is a model of its own: a generator's folder, frozen. Source: Embed-RL §3.3, Eq. 5."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from embedrl.distributed.processes import Device, choose_device
from embedrl.errors import ConfigError
from embedrl.models.policy_generator import PolicyGenerator
from embedrl.rl.rewards.judge import Question, ReferenceJudge, Verdict
from embedrl.types import Chat


class CheckpointJudge:
    """Takes the candidate whose number is the likeliest reply of a frozen model, which is not the policy's reference.

    A judge that was taught to judge (`embedrl.data.MatchLessons`), or a larger model than the policy. Its weights are
    whole on every process.

    Args:
        generator: The model, such as `embedrl.QwenVLReasoner` on a folder; built when first asked.
        min_mass: See `ReferenceJudge`.
        max_tokens: About how many tokens, padding included, go through the model at once.
        device: Where it computes; auto takes a GPU if there is one.

    Raises:
        ConfigError: If the generator does not say how likely its replies are, or a number is out of range.
    """

    def __init__(
        self, generator: PolicyGenerator, min_mass: float = 0.0, max_tokens: int = 8192, device: Device = "auto"
    ) -> None:
        if not isinstance(generator, PolicyGenerator):
            raise ConfigError(f"{type(generator).__name__} does not say how likely its replies are: it cannot judge")
        if max_tokens < 1:
            raise ConfigError(f"judge.max_tokens is {max_tokens}: give 1 or more")
        self.generator, self.min_mass, self.max_tokens, self.device = generator, min_mass, max_tokens, device
        self._judge = ReferenceJudge(_Frozen(generator, max_tokens), min_mass)
        self._built = False

    @property
    def name(self) -> str:
        """See `Judge`."""
        return f"the judge {getattr(self.generator, 'path', type(self.generator).__name__)}"

    def choose(self, questions: Sequence[Question]) -> list[Verdict]:
        """See `Judge`.

        Raises:
            NonFiniteError: If the model gives NaN.
        """
        if not self._built:
            self.generator.build()
            self.generator.requires_grad_(False).eval()
            self.generator.to(choose_device(self.device))
            self._built = True
        return self._judge.choose(questions)


class _Frozen:
    """A model in `eval` mode as `ChoiceScorer`."""

    def __init__(self, generator: PolicyGenerator, max_tokens: int) -> None:
        self.generator, self.max_tokens = generator, max_tokens

    @torch.no_grad()
    def score_choices(self, prompts: list[Chat], choices: list[list[str]]) -> list[Tensor]:
        return self.generator.score_choices(prompts, choices, self.max_tokens)

    def fits(self, prompt: Chat) -> bool:
        return self.generator.fits(prompt)
