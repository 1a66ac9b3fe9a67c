"""The models that data construction uses: behind an endpoint, or in this process."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from embedrl.errors import ConfigError
from embedrl.types import Chat
from embedrl.utils.chat_client import ChatClient, Completion, Endpoint

if TYPE_CHECKING:
    from PIL.Image import Image

YES_NO = ("Yes", "No")


@dataclass(frozen=True, slots=True)
class YesNo:
    """An answer to a question that asks for Yes or No.

    Attributes:
        text: Its text.
        p_yes: Probability of Yes against No; None if the model does not return it.
        mass: Probability of Yes and No together. Where it is small, `p_yes` compares two answers that the model would
            hardly give. None if the model does not return it.
    """

    text: str
    p_yes: float | None = None
    mass: float | None = None


class VLM(ABC):
    """A model that reads chats with pictures.

    Attributes:
        name: Name of the model: a part of `key`.
        where: Its name in errors, e.g. its address.
        concurrency: Number of concurrent requests.
    """

    name: str
    where: str
    concurrency: int

    @property
    def key(self) -> str:
        """What its answers depend on besides the question, in one line: journals keep answers under it.

        Read in or after a session. A class whose options change its answers adds them to its name: see `key_of`.
        """
        return self.name

    @abstractmethod
    def session(self) -> AbstractAsyncContextManager[None]:
        """Connect to it, or load it: to be entered before any request."""

    @abstractmethod
    async def write(self, chat: Chat) -> Completion:
        """Answer a chat.

        Raises:
            NoAnswer: If there is no answer.
        """

    @abstractmethod
    async def yes_or_no(self, chat: Chat) -> YesNo:
        """Answer a chat with Yes or No.

        Raises:
            NoAnswer: If there is no answer.
        """


def key_of(name: str, options: Mapping[str, Any]) -> str:
    """A model's name with a hash of what else its answers depend on.

    Args:
        name: Name of the model.
        options: Values that JSON can hold.

    >>> key_of("qwen", {"max_tokens": 8})
    'qwen#b7476afb4eb7'
    """
    text = json.dumps(options, sort_keys=True)
    return f"{name}#{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, kw_only=True)
class VLMEndpoint(Endpoint):
    """See `Endpoint`; answers are long, and there are hours of them."""

    slot: ClassVar[str] = "vlm"

    retries: int = 5


class EndpointVLM(VLM):
    """A model behind an OpenAI-compatible endpoint; pictures travel as data URLs, the frames of a video as pictures.

    Args:
        base_url: Address up to and with the version, e.g. `http://127.0.0.1:8000/v1`.
        model: Name of the model there.
        name: Name of the model in keys; None means `model`. Keep it when the same model is served under another name.
        max_tokens: Longest answer in tokens.
        temperature: 0 takes the likeliest answer.
        image_format: `png` keeps every pixel; `jpeg` is smaller for photographs.
        max_pixels: Larger pictures are shrunk to this many before they are sent; boxes are relative and stay right.
        **endpoint: How it is asked: see `Endpoint`.

    Raises:
        ConfigError: If an option is out of its range.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        name: str | None = None,
        max_tokens: int = 1024,
        temperature: float = 0.0,
        image_format: Literal["png", "jpeg"] = "png",
        max_pixels: int = 786_432,
        **endpoint: Any,
    ) -> None:
        self.endpoint = VLMEndpoint(base_url=base_url, **endpoint)
        if max_tokens < 1 or max_pixels < 1 or not temperature >= 0:
            raise ConfigError(
                f"vlm.max_tokens is {max_tokens}, max_pixels {max_pixels}, temperature {temperature}: "
                "give 1 or more, 1 or more, and 0 or more"
            )
        self.base_url, self.model = base_url, model
        self.name, self.where = name or model, f"{self.endpoint.address} ({model})"
        self.concurrency = self.endpoint.concurrency
        self.max_tokens, self.temperature = max_tokens, temperature
        self.image_format, self.max_pixels = image_format, max_pixels
        self._client: ChatClient | None = None

    @property
    def key(self) -> str:
        """See `VLM`: the name, and every option that is sent or changes what is sent."""
        options = {name: getattr(self, name) for name in ("max_tokens", "temperature", "image_format", "max_pixels")}
        return key_of(self.name, options | {"extra": self.endpoint.extra or {}})

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """See `VLM`."""
        async with ChatClient(self.endpoint) as self._client:
            yield

    async def write(self, chat: Chat) -> Completion:
        """See `VLM`."""
        return await self._ask(chat, max_tokens=self.max_tokens)

    async def yes_or_no(self, chat: Chat) -> YesNo:
        """See `VLM`; the probabilities are those of the first token, if the endpoint gives them."""
        answer = await self._ask(chat, max_tokens=min(8, self.max_tokens), logprobs=True, top_logprobs=10)
        return weigh(answer.text, answer.first)

    async def _ask(self, chat: Chat, **options: Any) -> Completion:
        if self._client is None:
            raise RuntimeError("enter EndpointVLM.session() before asking")
        messages = await asyncio.to_thread(to_messages, chat, self.image_format, self.max_pixels)
        return await self._client.complete(self.model, messages, temperature=self.temperature, **options)


def weigh(text: str, first: Mapping[str, float] | None) -> YesNo:
    """An answer with its probabilities, read off those of its first token.

    Args:
        text: The answer.
        first: Log-probabilities of the likeliest first tokens; None or empty if they are not known.

    >>> answer = weigh("Yes", {"Yes": -0.7, " yes": -2.0, "No": -1.5, "Maybe": -3.0})
    >>> round(answer.p_yes, 3), round(answer.mass, 3)
    (0.739, 0.855)
    """
    if not first:
        return YesNo(text)
    yes, no = (
        sum(math.exp(value) for token, value in first.items() if token.strip().lower() == word.lower())
        for word in YES_NO
    )
    return YesNo(text, yes / (yes + no) if yes + no > 0 else None, yes + no)


def to_messages(chat: Chat, image_format: str, max_pixels: int) -> list[dict[str, Any]]:
    """A chat in OpenAI's form: pictures as data URLs, the frames of a video as pictures in order.

    Args:
        chat: The chat in Hugging Face's form.
        image_format: `png` or `jpeg`.
        max_pixels: Larger pictures are shrunk.
    """
    messages = []
    for message in chat:
        content: list[dict[str, Any]] = []
        for part in message["content"]:
            pictures: Sequence[Image] = [part["image"]] if part["type"] == "image" else part.get("video", [])
            content += [
                {"type": "image_url", "image_url": {"url": _data_url(picture, image_format, max_pixels)}}
                for picture in pictures
            ]
            if part["type"] == "text":
                content.append({"type": "text", "text": part["text"]})
        # Servers take a plain text for an assistant's turn; not all take a list of parts there.
        plain = message["role"] != "user"
        messages.append({"role": message["role"], "content": content[0]["text"] if plain else content})
    return messages


def _data_url(picture: Image, image_format: str, max_pixels: int) -> str:
    if picture.width * picture.height > max_pixels:
        scale = math.sqrt(max_pixels / (picture.width * picture.height))
        picture = picture.resize((max(1, int(picture.width * scale)), max(1, int(picture.height * scale))))
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **({"quality": 92} if image_format == "jpeg" else {}))
    return f"data:image/{image_format};base64,{base64.b64encode(buffer.getvalue()).decode()}"
