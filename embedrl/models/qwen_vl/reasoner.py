"""Qwen3-VL as Reasoner: it writes replies, samples rollouts and scores choices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from embedrl.data.inputs import ModelInputs
from embedrl.models.packing import pack
from embedrl.models.policy_generator import PolicyGenerator, stop_criteria
from embedrl.models.qwen_vl.backbone import QwenVL
from embedrl.models.sampling import SampledReply, SamplingOptions, draw, grouped


class QwenVLReasoner(QwenVL, PolicyGenerator):
    """A Qwen3-VL that writes; takes the same arguments as `QwenVLBackbone`."""

    def pack(self, prompts: ModelInputs, replies: Sequence[Sequence[Sequence[int]]]) -> ModelInputs:
        """See `embedrl.models.packing.pack`."""
        return pack(prompts, replies)

    def generation_inputs(self, inputs: ModelInputs) -> dict[str, Tensor]:
        """Left to itself, generate() makes the positions of the prompt and of every new token after it."""
        return {k: v for k, v in inputs.items() if k not in ("labels", "position_ids")}

    def sample(
        self, inputs: ModelInputs, n: int, seeds: Sequence[int], options: SamplingOptions
    ) -> list[list[SampledReply]]:
        """See `PolicyGenerator.sample`; each prompt and its pictures are read once."""
        tokenizer, device = self.processor.tokenizer, inputs["input_ids"].device
        stop = stop_criteria(tokenizer, options.stop) if options.stop else None
        own = torch.tensor(self.ends, device=device)

        def ends(tokens: Tensor) -> Tensor:
            last = torch.isin(tokens[:, -1], own)
            return last if stop is None else last | stop(tokens, None)

        head, suppressed = self.network.get_output_embeddings(), torch.tensor(self.suppressed, device=device)
        drawn = draw(self.core, head, inputs, seeds, n, options, suppressed, ends, self.takes_blocks)
        return grouped(drawn, n, partial(self.reply_texts, inputs=inputs))
