"""Qwen3-VL as Reasoner: it writes replies, samples rollouts and scores choices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.generation import StoppingCriteriaList, StopStringCriteria

from embedrl.data.inputs import ModelInputs
from embedrl.distributed.unshard import is_whole
from embedrl.models.generator import Generator
from embedrl.models.packing import cut_by_tokens, pack, token_logprobs
from embedrl.models.qwen_vl.backbone import QwenVL
from embedrl.models.qwen_vl.preprocess import IGNORE
from embedrl.models.sampling import SampledReply, SamplingOptions, draw
from embedrl.types import Chat


class QwenVLReasoner(QwenVL, Generator):
    """A Qwen3-VL that writes; takes the same arguments as `QwenVLBackbone`."""

    forward_methods = ("generate", "sample", "reply_logprobs")

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
        """See `Generator.generate`; the `suppressed` tokens never appear."""
        tokenizer = self.processor.tokenizer
        options: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if temperature > 0:
            options = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        if stop:
            options["stopping_criteria"] = StoppingCriteriaList([_stop_criteria(tokenizer, tuple(stop))])
        prompt = inputs["input_ids"].shape[1]
        # Left to itself, generate() makes the positions of the prompt and of every new token after it.
        prompts = {k: v for k, v in inputs.items() if k not in ("labels", "position_ids")}
        try:
            tokens = self.network.generate(
                **prompts,
                max_new_tokens=max_new_tokens,
                suppress_tokens=self.suppressed,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                synced_gpus=not is_whole(self),  # transformers would always wait for other processes under FSDP2
                **options,
            )
        finally:
            # generate() leaves the batch's offsets behind, and a later forward of another batch would use them.
            self.core.rope_deltas = None
        return [self.reply_text(row) for row in tokens[:, prompt:].tolist()]

    def sample(
        self, inputs: ModelInputs, n: int, seeds: Sequence[int], options: SamplingOptions
    ) -> list[list[SampledReply]]:
        """Draw n replies a prompt, each prompt and its pictures being read once; in `eval` mode.

        Args:
            inputs: What `preprocessor().prompts(...)` returned, moved to the model's device.
            n: Replies a prompt.
            seeds: One a prompt: its replies depend on no other prompt of the batch.
            options: How to draw.

        Returns:
            The replies of each prompt.
        """
        tokenizer, device = self.processor.tokenizer, inputs["input_ids"].device
        stop = _stop_criteria(tokenizer, options.stop) if options.stop else None
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

    def reply_logprobs(self, inputs: ModelInputs, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the tokens of replies, with gradients; the LM head runs on those tokens alone.

        Args:
            inputs: What `packing.pack` returned, moved to the model's device.
            temperature: Divides the logits.

        Returns:
            Log-probabilities, and entropies of the distributions in nats: float32, `[replies, T]` each, 0 where
            `inputs["labels"]` is -100. The `suppressed` tokens have no probability.

        Raises:
            ConfigError: If several replies share a row and the attention implementation takes no mask of blocks.
        """
        network, labels = self.network, inputs["labels"]
        kept = labels != IGNORE
        hidden = self.hidden_states(inputs).flatten(0, 1)[inputs["sources"][kept]]
        token_values = token_logprobs(
            network.get_output_embeddings(),
            hidden,
            labels[kept],
            temperature,
            torch.tensor(self.suppressed, device=labels.device),
            network.config.text_config.vocab_size,
        )
        logprobs, entropies = (values.new_zeros(labels.shape).masked_scatter(kept, values) for values in token_values)
        return logprobs, entropies

    @torch.no_grad()
    def score_choices(
        self, prompts: Sequence[Chat], choices: Sequence[Sequence[str]], max_tokens: int = 8192, whole: bool = True
    ) -> list[Tensor]:
        """Log-probability of each choice as the whole reply, with the end of turn, so that 1 is no part of 10.

        Args:
            prompts: The prompts.
            choices: The possible replies to each; none is empty.
            max_tokens: About how many tokens, padding included, go through the model at once; at least one row does.
            whole: Whether the end of turn counts; if not, a choice is how the reply begins.

        Returns:
            For each prompt the log-probabilities of its choices, float32.
        """
        tokenizer, device = self.processor.tokenizer, self.network.get_input_embeddings().weight.device
        rows = [
            (chat, [text + tokenizer.eos_token * whole for text in group])
            for chat, texts in zip(prompts, choices, strict=True)
            for group in ([texts] if self.takes_blocks else [[text] for text in texts])
        ]
        replies = [tokenizer(group, add_special_tokens=False)["input_ids"] for _, group in rows]
        preprocessor = self.preprocessor()
        read = preprocessor.prompt_rows([chat for chat, _ in rows])
        lengths = [row["input_ids"].shape[1] + sum(map(len, reply)) for row, reply in zip(read, replies, strict=True)]
        scores: list[Tensor] = [torch.empty(0)] * len(rows)
        for part in cut_by_tokens(lengths, max_tokens):
            inputs = pack(preprocessor.join([read[i] for i in part]), [replies[i] for i in part])
            logprobs, _ = self.reply_logprobs({name: value.to(device) for name, value in inputs.items()})
            for i, values in zip(part, torch.split(logprobs.sum(1), [len(replies[i]) for i in part]), strict=True):
                scores[i] = values
        if not scores:
            return []
        return list(torch.split(torch.cat(scores), [len(texts) for texts in choices]))

    def fits(self, prompt: Chat) -> bool:
        """Whether a prompt is short enough for `score_choices`."""
        return self.preprocessor().fits(prompt, prompt=True)

    def reply_text(self, row: Sequence[int]) -> str:
        """The text of a reply up to its end of turn."""
        tokenizer = self.processor.tokenizer
        eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id  # looked up anew at every access
        end = row.index(eos) if eos in row else len(row)
        return str(tokenizer.decode([token for token in row[:end] if token != pad]))


@lru_cache(maxsize=8)
def _stop_criteria(tokenizer: Any, stop: tuple[str, ...]) -> StopStringCriteria:
    """Made once: it goes through the whole vocabulary."""
    return StopStringCriteria(tokenizer, list(stop))
