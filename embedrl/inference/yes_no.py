"""A vision-language model that answers yes-or-no questions by probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from embedrl.data.lenient_render import as_lenient
from embedrl.data.render import RenderOptions
from embedrl.data.rerank_lessons import NO, YES
from embedrl.errors import ConfigError, NonFiniteError
from embedrl.models.policy_generator import PolicyGenerator
from embedrl.tcot.prompts import Style
from embedrl.types import Chat

LENIENT = as_lenient(RenderOptions())


class YesNoModel:
    """Says how surely the reply to a question is yes: sigmoid(log p(yes) - log p(no)). Subclasses ask the questions.

    Args:
        generator: A model that learned to answer them; built when first used.
        render: What to show of sides; T-CoTs are read leniently.
        style: Style of the questions: that of the lessons.
        max_tokens: About how many tokens, padding included, go through the model at once.

    Raises:
        ConfigError: If the generator does not say how likely its replies are, or a number is out of range.
    """

    verb, noun = "answer", "model"  # what the model does and is, as errors say it

    def __init__(
        self,
        generator: PolicyGenerator,
        render: RenderOptions = LENIENT,
        style: Style = "full",
        max_tokens: int = 8192,
    ) -> None:
        if not isinstance(generator, PolicyGenerator):
            raise ConfigError(
                f"{type(generator).__name__} does not say how likely its replies are: it cannot {self.verb}"
            )
        if max_tokens < 1:
            raise ConfigError(f"max_tokens is {max_tokens}: give 1 or more")
        self.generator, self.render, self.style, self.max_tokens = generator, render, style, max_tokens

    @property
    def device(self) -> torch.device:
        """Where the model computes, once it is built."""
        device: torch.device = self.generator.network.get_input_embeddings().weight.device
        return device

    def build(self, device: torch.device) -> None:
        """Load the weights, freeze them, move them."""
        self.generator.build()
        self.generator.requires_grad_(False).eval()
        self.generator.to(device)

    @torch.no_grad()
    def answers(self, chats: Sequence[Chat], where: str) -> Tensor:
        """What `judge` says of questions, without dropout, `[questions]`, float32, on the CPU.

        Args:
            chats: The questions.
            where: What they are about, for errors.

        Raises:
            DataError: If the model cannot read a question.
            NonFiniteError: If the model gives NaN.
        """
        if not chats:
            return torch.empty(0)
        was_training = self.generator.training
        self.generator.eval()
        try:
            logits = self.judge(chats).float().cpu()
        finally:
            self.generator.train(was_training)
        if not logits.isfinite().all():
            raise NonFiniteError(f"{where}: the {self.noun}'s scores are NaN or infinite; look at its checkpoint")
        return logits

    def judge(self, chats: Sequence[Chat]) -> Tensor:
        """Logits log p(yes) - log p(no), one for each question, `[questions]`.

        Args:
            chats: The questions.
        """
        choices = [[YES, NO] for _ in chats]
        scores = torch.stack(self.generator.score_choices(chats, choices, self.max_tokens, whole=False))
        return scores[:, 0] - scores[:, 1]
