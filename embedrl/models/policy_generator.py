"""What EG-RL needs of a generator, and what all families of vision-language models write by."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property, lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers.generation import StoppingCriteriaList, StopStringCriteria

from embedrl.data.inputs import GeneratorPreprocessor, ModelInputs
from embedrl.distributed.unshard import is_whole
from embedrl.models.generator import Generator
from embedrl.models.packing import IGNORE, cut_by_tokens, token_logprobs
from embedrl.models.sampling import SampledReply, SamplingOptions
from embedrl.models.vlm.chats import placeholders
from embedrl.types import Chat

_VISUAL = re.compile(r"(image|video|audio|vision|boi|eoi|boa|eoa)\w*_token_(id|index)")


class PolicyPreprocessor(GeneratorPreprocessor, Protocol):
    """A preprocessor whose prompts are prepared once and put together in batches later."""

    end_of_turn: str
    max_length: int

    def prompt_rows(self, chats: Sequence[Chat]) -> list[ModelInputs]:
        """What `prompts([chat])` makes of each chat."""
        ...

    def join(self, rows: Sequence[ModelInputs]) -> ModelInputs:
        """What `prompts` makes of chats at once, of their `prompt_rows`."""
        ...

    def fits(self, chat: Chat, prompt: bool = False) -> bool:
        """Whether the chat has at most `max_length` tokens."""
        ...

    def as_read(self, chat: Chat) -> Chat:
        """The chat with every picture and frame at the size at which it enters the model."""
        ...


class PolicyGenerator(Generator):
    """A generator that EG-RL can train: it samples replies, and says how likely they are.

    Attributes:
        packs_replies: Whether several replies to a prompt may share a row.
        processor: The family's processor.
        lora: Its LoRA options, if any.
    """

    forward_methods: tuple[str, ...] = ("generate", "sample", "reply_logprobs")
    packs_replies: bool = True
    processor: Any
    lora: Any

    @property
    @abstractmethod
    def network(self) -> Any:
        """The model with its LM head, inside its `PeftModel` if there is LoRA."""

    @property
    @abstractmethod
    def core(self) -> Any:
        """Everything but the LM head."""

    @property
    @abstractmethod
    def takes_blocks(self) -> bool:
        """Whether several texts in one row can be kept apart by a mask of blocks."""

    @cached_property
    def suppressed(self) -> list[int]:
        """Ids that are never written: tokens that stand for pixels or sounds, and unused rows of the vocabulary."""
        config, tokenizer = self.network.config, self.processor.tokenizer
        words = tokenizer.get_vocab()
        marks = {words.get(word) for word in placeholders(self.processor)}
        marks |= {value for name, value in config.to_dict().items() if _VISUAL.fullmatch(name)}
        rows = self.network.get_output_embeddings().weight.shape[0]  # Molmo 2 reads more tokens than it writes
        unused = range(min(len(tokenizer), rows), rows)
        return sorted({i for i in marks if isinstance(i, int) and i < min(len(tokenizer), rows)} | {*unused})

    @property
    def ends(self) -> list[int]:
        """The tokens that end a reply."""
        return [self.processor.tokenizer.eos_token_id]

    @abstractmethod
    def preprocessor(self) -> PolicyPreprocessor:
        """The preprocessor that fits this model; needs no weights."""

    @abstractmethod
    def hidden_states(self, inputs: ModelInputs) -> Tensor:
        """The last layer's hidden states after the final norm, `[batch, length, dim]`; the LM head does not run."""

    @abstractmethod
    def hidden_at(self, inputs: ModelInputs, tokens: Tensor) -> Tensor:
        """The hidden states of tokens, given by their places in the flattened batch: `[tokens, dim]`."""

    @abstractmethod
    def cache_vision_features(self, seen: list[Any]) -> AbstractContextManager[None]:
        """While open, a frozen vision tower reuses the features in `seen` of the same pictures."""

    @abstractmethod
    def pack(self, prompts: ModelInputs, replies: Sequence[Sequence[Sequence[int]]]) -> ModelInputs:
        """Append replies to their prompts: see `embedrl.models.packing.pack`."""

    @abstractmethod
    def generation_inputs(self, inputs: ModelInputs) -> dict[str, Tensor]:
        """What the network's own `generate` takes of the inputs."""

    @abstractmethod
    def sample(
        self, inputs: ModelInputs, n: int, seeds: Sequence[int], options: SamplingOptions
    ) -> list[list[SampledReply]]:
        """Draw n replies a prompt; in `eval` mode.

        Args:
            inputs: What `preprocessor().prompts(...)` returned, moved to the model's device.
            n: Replies a prompt.
            seeds: One a prompt: its replies depend on no other prompt of the batch.
            options: How to draw.

        Returns:
            The replies of each prompt.
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """The LM head's logits `[tokens, vocabulary]` of hidden states `[tokens, dim]`."""
        values: Tensor = self.network.get_output_embeddings()(hidden)
        return values

    def loss(self, inputs: ModelInputs) -> Tensor:
        """Mean cross-entropy over the tokens of the replies; the LM head runs on those tokens alone."""
        following = functional.pad(inputs["labels"][:, 1:], (0, 1), value=IGNORE).flatten()
        kept = (following != IGNORE).nonzero()[:, 0]
        logits = self.logits(self.hidden_at(inputs, kept))
        return functional.cross_entropy(logits.float(), following[kept])

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
        # The penalties of a checkpoint's own defaults are no part of what is trained.
        options: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        options |= {"repetition_penalty": 1.0, "min_p": None}
        if temperature > 0:
            options |= {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        if stop:
            options["stopping_criteria"] = StoppingCriteriaList([stop_criteria(tokenizer, tuple(stop))])
        prompt = inputs["input_ids"].shape[1]
        try:
            tokens = self.network.generate(
                **self.generation_inputs(inputs),
                max_new_tokens=max_new_tokens,
                suppress_tokens=self.suppressed,
                eos_token_id=self.ends,
                pad_token_id=tokenizer.pad_token_id,
                synced_gpus=not is_whole(self),  # transformers would always wait for other processes under FSDP2
                **options,
            )
        finally:
            if hasattr(self.core, "rope_deltas"):
                # generate() leaves the batch's offsets behind, and a later forward of another batch would use them.
                self.core.rope_deltas = None
        return self.reply_texts(tokens[:, prompt:].tolist(), inputs)

    def reply_logprobs(
        self, inputs: ModelInputs, temperature: float = 1.0, top_p: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the tokens of replies, with gradients; the LM head runs on those tokens alone.

        Args:
            inputs: What `pack` returned, moved to the model's device.
            temperature: Divides the logits.
            top_p: See `token_logprobs`.

        Returns:
            Log-probabilities, and entropies of the distributions in nats: float32, `[replies, T]` each, 0 where
            `inputs["labels"]` is -100. The `suppressed` tokens have no probability.

        Raises:
            ConfigError: If several replies share a row and the attention implementation takes no mask of blocks.
        """
        network, labels = self.network, inputs["labels"]
        kept = labels != IGNORE
        hidden = self.hidden_at(inputs, inputs["sources"][kept])
        token_values = token_logprobs(
            self.logits,
            hidden,
            labels[kept],
            temperature,
            torch.tensor(self.suppressed, device=labels.device),
            network.config.text_config.vocab_size,
            top_p,
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
        tokenizer, end = self.processor.tokenizer, self.preprocessor().end_of_turn
        device = self.network.get_input_embeddings().weight.device
        rows = [
            (chat, [text + end * whole for text in group])
            for chat, texts in zip(prompts, choices, strict=True)
            for group in ([texts] if self.packs_replies and self.takes_blocks else [[text] for text in texts])
        ]
        replies = [tokenizer(group, add_special_tokens=False)["input_ids"] for _, group in rows]
        preprocessor = self.preprocessor()
        read = preprocessor.prompt_rows([chat for chat, _ in rows])
        lengths = [row["input_ids"].shape[1] + sum(map(len, reply)) for row, reply in zip(read, replies, strict=True)]
        scores: list[Tensor] = [torch.empty(0)] * len(rows)
        for part in cut_by_tokens(lengths, max_tokens):
            inputs = self.pack(preprocessor.join([read[i] for i in part]), [replies[i] for i in part])
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
        pad, ends = tokenizer.pad_token_id, set(self.ends)  # looked up anew at every access
        end = next((i for i, token in enumerate(row) if token in ends), len(row))
        return str(tokenizer.decode([token for token in row[:end] if token != pad]))

    def reply_texts(self, rows: Sequence[Sequence[int]], inputs: ModelInputs) -> list[str]:
        """The texts of replies, as T-CoTs are written.

        Args:
            rows: Their tokens.
            inputs: The prompts that they answer, one for each.
        """
        return [self.reply_text(row) for row in rows]


@lru_cache(maxsize=8)
def stop_criteria(tokenizer: Any, stop: tuple[str, ...]) -> StopStringCriteria:
    """When a reply ends at a text; made once, as it goes through the whole vocabulary."""
    return StopStringCriteria(tokenizer, list(stop))
