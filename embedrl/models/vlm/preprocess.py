"""Chats → inputs of a vision-language model. Holds a processor and no weights, so it pickles into loader workers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn.functional import pad
from transformers.video_utils import VideoMetadata

from embedrl.data.images import check_size
from embedrl.data.inputs import ModelInputs
from embedrl.errors import DataError, TooLongError
from embedrl.models.vlm.families import VLMFamily
from embedrl.types import Chat
from embedrl.utils.reserved_words import escape_message, own_words

TOKENS = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
"""The inputs that have a value for each token; all others belong to the pictures."""


class VLMPreprocessor:
    """Turns chats into the inputs of a model, each as the family's own processor makes them of it alone.

    Args:
        processor: The family's processor.
        family: What is different in the family.
        max_length: Longest sequence in tokens; a longer chat is an error, never cut.
        padding_side: Where shorter rows are padded.
    """

    def __init__(
        self, processor: Any, family: VLMFamily, max_length: int, padding_side: Literal["left", "right"] = "right"
    ) -> None:
        self.processor, self.family = processor, family
        self.max_length, self.padding_side = max_length, padding_side
        self.placeholders = placeholders(processor)
        self.reserved = own_words(processor.tokenizer)

    def __call__(self, chats: Sequence[Chat]) -> ModelInputs:
        """Process one micro-batch for embedding: one chat a row.

        Raises:
            DataError: If a chat is empty, too long, cannot be processed, or its text holds a visual placeholder token.
        """
        return self._join([self._read(chat) for chat in chats], self.padding_side)

    def length(self, chat: Chat) -> int:
        """A cheap estimate of the chat's length in tokens."""
        tokens = 0
        for part in parts(chat):
            if part["type"] == "text":
                tokens += len(part["text"]) // 4 + 1
            else:
                pictures = [part["image"]] if part["type"] == "image" else part["video"]
                tokens += len(pictures) * self._picture_tokens(pictures[0].size)
        return tokens

    def _picture_tokens(self, size: tuple[int, int]) -> int:
        """Tokens of a picture of a width and height."""
        try:
            return self.family.picture_tokens(self.processor, size)
        except ValueError as error:
            raise DataError(f"a picture of {size[0]}x{size[1]} pixels: {error}") from error

    def _join(self, rows: Sequence[ModelInputs], side: str) -> ModelInputs:
        """One batch of rows, padded on a side."""
        width = max(row["input_ids"].shape[1] for row in rows)
        joined: ModelInputs = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            if name in TOKENS:
                fill = self.processor.tokenizer.pad_token_id if name == "input_ids" else 0
                gaps = [width - row["input_ids"].shape[1] for row in rows]
                sides = [(gap, 0) if side == "left" else (0, gap) for gap in gaps]
                values = [pad(row[name], edges, value=fill) for row, edges in zip(rows, sides, strict=True)]
            else:
                values = self._pictures(name, rows)
            joined[name] = torch.cat(values)
        return joined

    def _pictures(self, name: str, rows: Sequence[ModelInputs]) -> list[Tensor]:
        """An input that belongs to pictures, all of one shape but for the first dimension."""
        values = [row[name] for row in rows if name in row]
        if self.family.pictures_by_row:
            values = [row[name] if name in row else torch.zeros_like(values[0]) for row in rows]
        most = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]

        def filled(value: Tensor) -> Tensor:
            gaps = [(0, size - own) for size, own in zip(most, value.shape[1:], strict=True)]
            return pad(value, [edge for gap in reversed(gaps) for edge in gap]) if any(map(any, gaps)) else value

        return [filled(value) for value in values]

    def _read(self, chat: Chat, prompt: bool = False, reply: str = "") -> ModelInputs:
        """The inputs of one chat, as the processor makes them.

        Args:
            chat: The chat.
            prompt: Whether it ends where the assistant's turn begins.
            reply: A text that follows.
        """
        chat = chat if self.family.reads_video else [as_pictures(message) for message in chat]
        text = self._text(chat, prompt) + reply
        images = [part["image"] for part in parts(chat) if part["type"] == "image"]
        videos = [part for part in parts(chat) if part["type"] == "video"]
        for picture in (*images, *(frame for part in videos for frame in part["video"])):
            check_size(*picture.size, f"a picture of the chat {excerpt(text)}", cure="shrink it")
        tokenizer = self.processor.tokenizer
        # As `apply_chat_template(tokenize=True)` does: a template that begins with this token needs no second one.
        begun = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        options: dict[str, Any] = {"text_kwargs": {"add_special_tokens": not begun}}
        if videos:
            frames = [same_size(part["video"]) for part in videos]
            options["videos"] = frames
            options["videos_kwargs"] = {
                "do_sample_frames": False,
                "video_metadata": [
                    VideoMetadata(
                        total_num_frames=len(shots), fps=part.get("fps", 2.0), frames_indices=[*range(len(shots))]
                    )
                    for shots, part in zip(frames, videos, strict=True)
                ],
            }
        try:
            made = self.processor(text=[text], images=[images] if images else None, return_tensors="pt", **options)
        except (ValueError, IndexError) as error:
            raise DataError(f"the chat {excerpt(text)} cannot be processed: {error}") from error
        length = made["input_ids"].shape[1]
        if length > self.max_length:
            raise TooLongError(
                f"the chat {excerpt(text)} has {length} tokens, more than max_length={self.max_length}: "
                "shorten it, let pictures be read smaller or raise max_length"
            )
        return {name: value if isinstance(value, Tensor) else torch.tensor(value) for name, value in made.items()}

    def _text(self, chat: Chat, prompt: bool) -> str:
        content = parts(chat)
        if not content:
            raise DataError("a chat without content cannot be embedded or answered")
        for part in content:
            if part["type"] == "text" and (mark := self.placeholders.search(part["text"])):
                raise DataError(f"the text {excerpt(part['text'])} holds {mark[0]}, which marks pixels: remove it")
        chat = [escape_message(message, self.reserved) for message in chat]
        return str(self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt))


def placeholders(processor: Any) -> re.Pattern[str]:
    """The words that stand for pixels."""
    names = ("image_token", "video_token", "audio_token")
    words = {
        str(word) for owner in (processor, processor.tokenizer) for n in names if (word := getattr(owner, n, None))
    }
    return re.compile("|".join(map(re.escape, sorted(words))) or r"(?!)")


def parts(chat: Chat) -> list[dict[str, Any]]:
    """The parts of all messages of a chat."""
    content: list[dict[str, Any]] = []
    for message in chat:
        own = message["content"]
        content += [{"type": "text", "text": own}] if isinstance(own, str) else own
    return content


def as_pictures(message: dict[str, Any]) -> dict[str, Any]:
    """A message in which the frames of a video are pictures."""
    content = [
        shown
        for part in parts([message])
        for shown in ([{"type": "image", "image": f} for f in part["video"]] if part["type"] == "video" else [part])
    ]
    return message | {"content": content}


def same_size(frames: Sequence[Image]) -> list[Image]:
    """The frames of a video, all at the size of the first."""
    return [frame if frame.size == frames[0].size else frame.resize(frames[0].size) for frame in frames]


def excerpt(text: str) -> str:
    """The beginning of a text, for errors."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
