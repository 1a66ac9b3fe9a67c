"""A reranker that writes a thought about query and candidate before it judges them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from embedrl.data.inputs import ModelInputs
from embedrl.data.render import RenderOptions
from embedrl.data.rerank_replies import IRRELEVANT, RELEVANT
from embedrl.data.rerank_thoughts import verdict_chat
from embedrl.errors import ConfigError
from embedrl.inference.reranker import Reranker
from embedrl.inference.yes_no import LENIENT
from embedrl.models.packing import cut_by_tokens
from embedrl.models.policy_generator import PolicyGenerator
from embedrl.tcot.prompts import Style
from embedrl.types import Chat, Side

_END = "</think>"


class ThinkingReranker(Reranker):
    """Writes a thought about each candidate, then says how surely it is what the query asks for.

    The thought is the likeliest one, token by token. The score is sigmoid(log p(relevant) - log p(irrelevant)) behind
    it, so that candidates with the same verdict have an order, too. Source: MMRAG-RFT (arXiv 2512.17194) for the
    thought and the verdict; the score is this project's.

    Args:
        generator: A model that learned it from `embedrl.data.RerankThoughts`, form `verdict`.
        render: What to show of both sides; T-CoTs are read leniently.
        style: Style of the request: that of the lessons.
        max_tokens: About how many tokens, padding included, go through the model at once.
        max_new_tokens: Longest thought; one that is longer ends there, and the verdict follows.

    Raises:
        ConfigError: If the generator does not say how likely its replies are, or a number is out of range.
    """

    def __init__(
        self,
        generator: PolicyGenerator,
        render: RenderOptions = LENIENT,
        style: Style = "full",
        max_tokens: int = 8192,
        max_new_tokens: int = 256,
    ) -> None:
        super().__init__(generator, render, style, max_tokens)
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {max_new_tokens}: give 1 or more")
        self.max_new_tokens = max_new_tokens

    def question(self, query: Side, candidate: Side, where: str = "") -> Chat:
        """The request for a thought and a verdict on one candidate.

        Args:
            query: The query.
            candidate: The candidate.
            where: Name of the query for errors.
        """
        return verdict_chat(query, candidate, self.render, self.style, where=where)

    def judge(self, chats: Sequence[Chat]) -> Tensor:
        """Logits log p(relevant) - log p(irrelevant) behind the thought on each question, `[questions]`.

        Args:
            chats: The questions.
        """
        preprocessor, device = self.generator.preprocessor(), self.device
        rows = preprocessor.prompt_rows(chats)
        logits = torch.empty(len(chats))
        lengths = [row["input_ids"].shape[1] + 2 * self.max_new_tokens for row in rows]
        for part in cut_by_tokens(lengths, self.max_tokens):
            inputs = preprocessor.join([rows[i] for i in part])
            moved = {name: value.to(device) for name, value in inputs.items()}
            replies = self.generator.generate(moved, self.max_new_tokens, stop=(_END,))
            logits[part] = self._verdicts(inputs, [reply.partition(_END)[0] for reply in replies]).cpu()
        return logits

    def _verdicts(self, inputs: ModelInputs, thoughts: Sequence[str]) -> Tensor:
        """The logits of prompts with thoughts; tokens that both verdicts begin with do not enter, not even rounded."""
        tokenizer, device = self.generator.processor.tokenizer, self.device
        sums = []
        tokens = []
        for verdict in (RELEVANT, IRRELEVANT):
            texts = [f"{thought}{_END}<answer>{verdict}</answer>" for thought in thoughts]
            tokens.append(tokenizer(texts, add_special_tokens=False)["input_ids"])
        pairs = zip(*tokens, strict=True)
        starts = [next(i for i, (a, b) in enumerate(zip(*pair, strict=False)) if a != b) for pair in pairs]
        for replies in tokens:
            packed = self.generator.pack(inputs, [[reply] for reply in replies])
            logprobs, _ = self.generator.reply_logprobs({name: value.to(device) for name, value in packed.items()})
            sums.append(torch.stack([row[start:].sum() for row, start in zip(logprobs, starts, strict=True)]))
        return (sums[0] - sums[1]).float()
