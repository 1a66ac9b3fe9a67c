"""Qwen3-VL as Reasoner: it writes replies, samples rollouts and scores choices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from embedrl.data.inputs import ModelInputs
from embedrl.models.packing import pack
from embedrl.models.policy_generator import PolicyGenerator, stop_criteria
from embedrl.models.qwen_vl.backbone import QwenVL
from embedrl.models.sampling import SampledReply, SamplingOptions, draw


class QwenVLReasoner(QwenVL, PolicyGenerator):
    """A Qwen3-VL that writes; takes the same arguments as `QwenVLBackbone`."""

    @property
    def suppressed(self) -> list[int]:
        """Ids that are never written: tokens that stand for pixels, and unused rows of the vocabulary."""
        config = self.network.config
        visual = (
            config.image_token_id,
            config.video_token_id,
            config.vision_start_token_id,
            config.vision_end_token_id,
        )
        return [*visual, *range(len(self.processor.tokenizer), config.text_config.vocab_size)]

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
        eos = tokenizer.eos_token_id

        def ends(tokens: Tensor) -> Tensor:
            last: Tensor = tokens[:, -1] == eos
            return last if stop is None else last | stop(tokens, None)

        head, suppressed = self.network.get_output_embeddings(), torch.tensor(self.suppressed, device=device)
        drawn = draw(self.core, head, inputs, seeds, n, options, suppressed, ends)
        samples = []
        for row, values, length, ended in zip(
            drawn.tokens.tolist(), drawn.logprobs.tolist(), drawn.lengths.tolist(), drawn.ended.tolist(), strict=True
        ):
            tokens = tuple(row[:length])
            samples.append(SampledReply(tokens, tuple(values[:length]), self.reply_text(tokens), truncated=not ended))
        return [samples[i : i + n] for i in range(0, len(samples), n)]
