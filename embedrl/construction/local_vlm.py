"""A model in this process that takes the place of an endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property, partial
from typing import Literal

import torch

from embedrl.construction.vlm import VLM, YES_NO, YesNo, key_of
from embedrl.data.checked_rows import good_prompts
from embedrl.errors import ConfigError, DataError
from embedrl.models.checkpoint_files import tell_if_of_the_world
from embedrl.models.open_reasoner import reasoner
from embedrl.models.policy_generator import PolicyGenerator
from embedrl.models.weights_hash import weights_hash
from embedrl.tcot.schema import STOP
from embedrl.types import Chat
from embedrl.utils.chat_client import Completion


class LocalVLM(VLM):
    """A vision-language model in this process, asked in batches.

    Args:
        path: A checkpoint folder, a Hub name such as `Qwen/Qwen3-VL-2B-Instruct`, or `embedrl:world_base`, which knows
            the built-in world alone.
        name: Name of the model in keys; None means `path`.
        max_tokens: Longest answer in tokens.
        batch_size: Chats that are answered at once.
        device: Where to compute; auto takes a GPU if there is one.
        dtype: Type of the weights.

    Raises:
        ConfigError: If an option is out of its range.
    """

    where = "the model in this process"

    def __init__(
        self,
        path: str,
        name: str | None = None,
        max_tokens: int = 1024,
        batch_size: int = 16,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        dtype: Literal["float32", "bfloat16", "auto"] = "auto",
    ) -> None:
        if max_tokens < 1 or batch_size < 1:
            raise ConfigError(f"vlm.max_tokens is {max_tokens}, batch_size {batch_size}: give 1 or more")
        self.path, self.name = path, name or path
        self.max_tokens, self.concurrency = max_tokens, batch_size
        self.device = "cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu")
        self.generator = reasoner(path, dtype)
        self._told = False
        self._waiting: list[tuple[Chat, asyncio.Future[str]]] = []

    @classmethod
    def of(cls, generator: PolicyGenerator, device: str, max_tokens: int, name: str = "the given model") -> LocalVLM:
        """A model that is loaded already, such as a Reasoner's.

        Args:
            generator: The model.
            device: Where it computes.
            max_tokens: Longest answer in tokens.
            name: Name of the model in keys.
        """
        vlm = cls.__new__(cls)  # `__init__` would load another one
        vlm.path = vlm.name = name
        vlm.max_tokens, vlm.concurrency, vlm.device = max_tokens, 16, device
        vlm.generator, vlm._told, vlm._waiting = generator, True, []
        return vlm

    @cached_property
    def key(self) -> str:
        """See `VLM`: the name, the weights in their type, the processor, and the longest answer.

        Hashing the weights takes about as long as reading them from a disk cache: seconds for billions of parameters.
        """
        self.generator.build()
        processor = self.generator.processor
        options = {
            "weights": weights_hash(self.generator),
            "processor": processor.to_json_string(),
            "chat_template": processor.chat_template,
            "max_tokens": self.max_tokens,
        }
        return key_of(self.name, options)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """See `VLM`."""
        self.generator.build()
        if not self._told:
            tell_if_of_the_world(self.path, self.generator.processor.tokenizer)
            self._told = True
        self.generator.eval().to(self.device)
        yield

    async def write(self, chat: Chat) -> Completion:
        """See `VLM`: concurrent requests are answered in one batch; an answer ends after a T-CoT's last tag."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((chat, future))
        if len(self._waiting) == 1:
            await self._gather()
            batch, self._waiting = self._waiting, []
            try:
                answers = self._generate([chat for chat, _ in batch], self.max_tokens)
            except Exception as error:  # noqa: BLE001  # raised in every waiting request
                for _, waiting in batch:
                    if not waiting.done():
                        waiting.set_exception(error)
            else:
                for (_, waiting), answer in zip(batch, answers, strict=True):
                    if waiting.done():
                        continue
                    if isinstance(answer, DataError):
                        waiting.set_exception(answer)
                    else:
                        waiting.set_result(answer)
        return Completion(await future)

    async def yes_or_no(self, chat: Chat) -> YesNo:
        """See `VLM`; the probabilities are those that the answer begins with the word, in upper or lower case."""
        words = [word for yes_or_no in YES_NO for word in (yes_or_no, yes_or_no.lower())]
        scores = self.generator.score_choices([chat], [words], whole=False)[0]
        yes, no = scores.double().exp().view(2, 2).sum(1).tolist()
        # Most likely neither is the answer: it is written out for the journal.
        text: str | DataError = YES_NO[yes <= no] if yes + no >= 0.5 else self._generate([chat], 8)[0]
        if isinstance(text, DataError):
            raise text
        return YesNo(text, yes / (yes + no) if yes + no > 0 else None, yes + no)

    async def _gather(self) -> None:
        """Wait until the batch is full, or no request arrives for a moment."""
        seen = 0
        while seen < len(self._waiting) < self.concurrency:
            seen = len(self._waiting)
            await asyncio.sleep(0.02)

    def _generate(self, chats: list[Chat], max_tokens: int) -> list[str | DataError]:
        """The replies; in place of one, what is wrong with its chat: the others of its batch are answered."""
        inputs, bad = good_prompts([partial(_itself, chat) for chat in chats], self.generator.preprocessor())
        moved = {name: value.to(self.device) for name, value in inputs.items()}
        replies = iter(self.generator.generate(moved, max_tokens, stop=STOP) if moved else [])
        return [bad[i] if i in bad else next(replies) for i in range(len(chats))]


def _itself(chat: Chat) -> Chat:
    return chat
