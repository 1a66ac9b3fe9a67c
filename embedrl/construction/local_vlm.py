"""A model in this process that takes the place of an endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import torch

from embedrl.construction.vlm import VLM, YES_NO
from embedrl.errors import ConfigError
from embedrl.models.open_reasoner import reasoner
from embedrl.types import Chat
from embedrl.utils.chat_client import Completion


class LocalVLM(VLM):
    """A vision-language model in this process, asked in batches.

    Args:
        path: A checkpoint folder, a Hub name, or `embedrl:world_base`.
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
        self._waiting: list[tuple[Chat, asyncio.Future[str]]] = []

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """See `VLM`."""
        self.generator.build()
        self.generator.eval().to(self.device)
        yield

    async def write(self, chat: Chat) -> Completion:
        """See `VLM`: concurrent requests are answered in one batch."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((chat, future))
        if len(self._waiting) == 1:
            await self._gather()
            batch, self._waiting = self._waiting, []
            try:
                answers = self._generate([chat for chat, _ in batch])
            except Exception as error:  # noqa: BLE001  # raised in every waiting request
                for _, waiting in batch:
                    if not waiting.done():
                        waiting.set_exception(error)
            else:
                for (_, waiting), answer in zip(batch, answers, strict=True):
                    if not waiting.done():
                        waiting.set_result(answer)
        return Completion(await future)

    async def yes_or_no(self, chat: Chat) -> tuple[str, float | None]:
        """See `VLM`."""
        scores = self.generator.score_choices([chat], [YES_NO])[0]
        probability = float(scores.double().softmax(0)[0])
        return YES_NO[probability <= 0.5], probability

    async def _gather(self) -> None:
        """Wait until the batch is full, or no request arrives for a moment."""
        seen = 0
        while seen < len(self._waiting) < self.concurrency:
            seen = len(self._waiting)
            await asyncio.sleep(0.02)

    def _generate(self, chats: list[Chat]) -> list[str]:
        inputs = self.generator.preprocessor().prompts(chats)
        return self.generator.generate({k: v.to(self.device) for k, v in inputs.items()}, self.max_tokens)
