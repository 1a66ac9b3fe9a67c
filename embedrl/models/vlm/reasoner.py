"""Any vision-language model of transformers as Reasoner: it writes replies, samples rollouts and scores choices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import GenerationConfig
from transformers.generation import LogitsProcessor, StoppingCriteria

from embedrl.data.inputs import ModelInputs
from embedrl.distributed.unshard import is_whole
from embedrl.models.packing import IGNORE
from embedrl.models.policy_generator import PolicyGenerator, stop_criteria
from embedrl.models.sampling import Draws, SampledReply, SamplingOptions, choose, distribution, grouped
from embedrl.models.vlm.backbone import AnyVLM
from embedrl.models.vlm.rows import TOKENS, picture_inputs, repeated


class VLMReasoner(AnyVLM, PolicyGenerator):
    """A vision-language model that writes; takes the same arguments as `VLMBackbone`.

    Every reply is a row of its own, with its prompt and pictures. A `QwenVLReasoner` writes the same as a Qwen3-VL,
    faster.
    """

    packs_replies = False
    takes_blocks = False

    @property
    def ends(self) -> list[int]:
        """The tokens that end a reply: the end of the assistant's turn, and the tokenizer's own end."""
        tokenizer = self.processor.tokenizer
        turn = tokenizer.convert_tokens_to_ids(self.preprocessor().end_of_turn)
        return sorted({turn, tokenizer.eos_token_id})

    def pack(self, prompts: ModelInputs, replies: Sequence[Sequence[Sequence[int]]]) -> ModelInputs:
        """See `PolicyGenerator.pack`: one reply a row, positions being left to the model."""
        flat = [reply for row in replies for reply in row]
        rows, length = prompts["input_ids"].shape
        if len(flat) != rows:
            raise ValueError(f"{len(flat)} replies to {rows} prompts: a reply has a row of its own")
        longest = max(map(len, flat))
        labels = torch.full((rows, longest), IGNORE)
        packed = {name: pad(prompts[name], (0, longest - 1)) for name in TOKENS if name in prompts}
        for row, reply in enumerate(flat):
            labels[row, : len(reply)] = torch.tensor(reply)
            # The last token of a reply is predicted, but is no input: no token follows it.
            packed["input_ids"][row, length : length + len(reply) - 1] = torch.tensor(reply[:-1])
            packed["attention_mask"][row, length : length + len(reply) - 1] = 1
            if "token_type_ids" in packed:
                packed["token_type_ids"][row, length : length + len(reply) - 1] = self.preprocessor().family.reply_type
        width = length + longest - 1
        steps = torch.arange(longest).minimum((labels != IGNORE).sum(1, keepdim=True) - 1)
        sources = torch.arange(rows)[:, None] * width + length - 1 + steps
        others = {name: prompts[name] for name in picture_inputs(prompts)}
        return packed | others | {"labels": labels, "sources": sources}

    def generation_inputs(self, inputs: ModelInputs) -> dict[str, Tensor]:
        """Positions are left to the network."""
        return self._tensors(inputs)

    def logits(self, hidden: Tensor) -> Tensor:
        """See `PolicyGenerator.logits`, with the scale or the bound that some families put on them."""
        logits, config = super().logits(hidden), self.network.config.get_text_config()
        if cap := getattr(config, "final_logit_softcapping", None):
            logits = torch.tanh(logits / cap) * cap
        return logits * (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)

    def reply_texts(self, rows: Sequence[Sequence[int]], inputs: ModelInputs) -> list[str]:
        """See `PolicyGenerator.reply_texts`: boxes are written as T-CoTs do."""
        return self.preprocessor().as_told([self.reply_text(row) for row in rows], inputs)

    @torch.no_grad()
    def sample(
        self, inputs: ModelInputs, n: int, seeds: Sequence[int], options: SamplingOptions
    ) -> list[list[SampledReply]]:
        """See `PolicyGenerator.sample`; every reply reads its prompt and pictures anew."""
        tokenizer, device = self.processor.tokenizer, inputs["input_ids"].device
        prompts, steps = repeated(inputs, n), options.max_new_tokens
        uniform = torch.cat(
            [torch.rand(n, steps, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in seeds]
        ).to(device)
        width = prompts["input_ids"].shape[1]
        draws = _Draws(width, uniform, options, torch.tensor(self.suppressed, device=device))
        ends = _Ends(width, self.ends, stop_criteria(tokenizer, options.stop) if options.stop else None, uniform)
        config = GenerationConfig(
            max_new_tokens=steps,
            do_sample=False,
            repetition_penalty=1.0,  # a checkpoint's own is no part of what is trained
            eos_token_id=self.ends,
            pad_token_id=tokenizer.pad_token_id,
        )
        try:
            tokens = self.network.generate(
                **self.generation_inputs(prompts),
                generation_config=config,
                logits_processor=[draws],
                stopping_criteria=[ends],
                synced_gpus=not is_whole(self),
            )
        finally:
            if hasattr(self.core, "rope_deltas"):
                self.core.rope_deltas = None
        drawn = Draws(tokens[:, width:], draws.logprobs, ends.lengths, ends.ended)
        return grouped(drawn, n, partial(self.reply_texts, inputs=prompts))


class _Draws(LogitsProcessor):  # type: ignore[misc]
    """Chooses every row's next token by its own uniform number, and leaves no other to choose.

    Attributes:
        logprobs: Log-probabilities of the tokens, `[rows, steps]`.
    """

    def __init__(self, width: int, uniform: Tensor, options: SamplingOptions, suppressed: Tensor) -> None:
        self.width, self.uniform, self.options, self.suppressed = width, uniform, options, suppressed
        self.logprobs = torch.zeros(uniform.shape, device=uniform.device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self.width
        logits = distribution(scores, self.suppressed, self.options)
        token = choose(logits, self.uniform[:, step], self.options)[:, None]
        self.logprobs[:, step] = logits.log_softmax(-1).gather(1, token)[:, 0]
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


class _Ends(StoppingCriteria):  # type: ignore[misc]
    """Ends a row at the end of its turn or at a text.

    Attributes:
        lengths: Tokens of each reply, `[rows]`.
        ended: Whether it ended before its longest length, `[rows]`.
    """

    def __init__(self, width: int, ends: Sequence[int], stop: Any, like: Tensor) -> None:
        self.width, self.stop = width, stop
        self.tokens = torch.tensor(ends, device=like.device)
        self.ended = torch.zeros(len(like), dtype=torch.bool, device=like.device)
        self.lengths = torch.full((len(like),), like.shape[1], device=like.device)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        written = input_ids[:, self.width :]
        ends = torch.isin(written[:, -1], self.tokens)
        if self.stop is not None:
            ends = ends | self.stop(written, None)
        self.lengths[ends & ~self.ended] = written.shape[1]
        self.ended |= ends
        return self.ended
