"""The contract of a model that writes, and its Qwen3-VL implementation: the Reasoner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from embedrl.data.inputs import ModelInputs
from embedrl.data.lessons import GeneratorPreprocessor
from embedrl.models.preprocess import IGNORE
from embedrl.models.qwen_vl import QwenVL


class Generator(nn.Module, ABC):
    """A model that reads a chat and writes a reply. Constructing one is cheap; `build` loads the weights."""

    @abstractmethod
    def build(self) -> None:
        """Create the modules, load weights, add LoRA, freeze what is frozen; does nothing when called again."""

    @abstractmethod
    def preprocessor(self) -> GeneratorPreprocessor:
        """The preprocessor that fits this model; needs no weights."""

    @abstractmethod
    def loss(self, inputs: ModelInputs) -> Tensor:
        """Mean cross-entropy over the tokens of the replies, a scalar."""

    @abstractmethod
    def generate(
        self,
        inputs: ModelInputs,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
    ) -> list[str]:
        """Write one reply a prompt.

        Args:
            inputs: What `preprocessor().prompts(...)` returned, moved to the model's device.
            max_new_tokens: Longest reply in tokens.
            temperature: 0 takes the likeliest token; otherwise tokens are drawn from the global RNG.
            top_p: Draw among the likeliest tokens that hold this much probability.
            stop: Texts that end a reply; they stay in it, with the rest of the token that completed one.

        Returns:
            The replies, without the end-of-turn token.
        """

    def forward(self, inputs: ModelInputs) -> Tensor:
        """Same as `loss`, so that wrappers with hooks on `forward` (FSDP, DDP) work."""
        return self.loss(inputs)

    @abstractmethod
    def export(self, out: Path, merge: bool = True) -> None:
        """Write a checkpoint that other libraries load: merged weights, or the adapter alone."""


class QwenVLReasoner(QwenVL, Generator):
    """A Qwen3-VL that writes; takes the same arguments as `QwenVLBackbone`."""

    def loss(self, inputs: ModelInputs) -> Tensor:
        """Mean cross-entropy over the tokens of the replies; the LM head runs on those tokens alone."""
        labels = inputs["labels"][:, 1:]
        hidden = self.hidden_states(inputs)[:, :-1]
        kept = labels != IGNORE
        logits = self.network.get_output_embeddings()(hidden[kept])
        return functional.cross_entropy(logits.float(), labels[kept])

    @torch.no_grad()
    def generate(
        self,
        inputs: ModelInputs,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
    ) -> list[str]:
        """See `Generator.generate`. Tokens that stand for pixels, and unused rows of the vocabulary, never appear."""
        tokenizer, config = self.processor.tokenizer, self.network.config
        visual = (
            config.image_token_id,
            config.video_token_id,
            config.vision_start_token_id,
            config.vision_end_token_id,
        )
        options: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if temperature > 0:
            options = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        if stop:
            options |= {"stop_strings": list(stop), "tokenizer": tokenizer}
        prompt = inputs["input_ids"].shape[1]
        # Left to itself, generate() makes the positions of the prompt and of every new token after it.
        prompts = {k: v for k, v in inputs.items() if k not in ("labels", "position_ids")}
        try:
            tokens = self.network.generate(
                **prompts,
                max_new_tokens=max_new_tokens,
                suppress_tokens=[*visual, *range(len(tokenizer), config.text_config.vocab_size)],
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                **options,
            )
        finally:
            # generate() leaves the batch's offsets behind, and a later forward of another batch would use them.
            self.core.rope_deltas = None
        replies: list[str] = []
        for row in tokens[:, prompt:].tolist():
            end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
            replies.append(tokenizer.decode([t for t in row[:end] if t != tokenizer.pad_token_id]))
        return replies
