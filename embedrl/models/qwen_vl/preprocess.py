"""Chats → Qwen3-VL inputs. Holds a processor and no weights, so it pickles into loader workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from embedrl.data.inputs import ModelInputs
from embedrl.errors import ConfigError, DataError, ThinPictureError, TooLongError
from embedrl.models.grouping import group_inputs
from embedrl.models.packing import IGNORE
from embedrl.models.patches import IMAGE, VIDEO, VISUAL, Visuals, visual_inputs
from embedrl.models.prompt_rows import join, split
from embedrl.models.qwen_vl.positions import mrope_positions
from embedrl.types import Chat, Lesson
from embedrl.utils.reserved_words import EMB_TOKEN, escape_message, own_words


@dataclass(frozen=True, slots=True)
class PixelBudget:
    """How large a picture may be when the model reads it; the aspect ratio is kept.

    Attributes:
        min_pixels: Smaller pictures are enlarged to at least this many pixels (height times width).
        max_pixels: Larger pictures are reduced to at most this many.
    """

    min_pixels: int
    max_pixels: int

    def __post_init__(self) -> None:
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ConfigError(f"pixel budget {self.min_pixels}..{self.max_pixels}: needs 0 < min_pixels <= max_pixels")


class QwenVLPreprocessor:
    """Turns chats into the inputs of a Qwen3-VL.

    Args:
        processor: A `Qwen3VLProcessor`.
        images: Budget of pictures and pages.
        evidence: Budget of evidence crops and key frames (content parts with `"evidence": True`).
        frames: Budget of one video frame.
        max_length: Longest sequence in tokens; a longer chat is an error, never cut.
        padding_side: Where shorter rows are padded.
    """

    def __init__(
        self,
        processor: Any,
        images: PixelBudget,
        evidence: PixelBudget,
        frames: PixelBudget,
        max_length: int,
        padding_side: Literal["left", "right"] = "right",
    ) -> None:
        self.processor = processor
        self.images, self.evidence, self.frames = images, evidence, frames
        self.max_length = max_length
        self.padding_side = padding_side
        self.factor = processor.image_processor.patch_size * processor.image_processor.merge_size
        self.placeholders = (processor.image_token, processor.video_token)
        self.reserved = own_words(processor.tokenizer)
        self.end_of_turn: str = processor.tokenizer.eos_token

    def __call__(self, chats: Sequence[Chat]) -> ModelInputs:
        """Process one micro-batch for embedding: one chat a row.

        Raises:
            DataError: If a chat is empty, too long, or its text holds a visual placeholder token.
        """
        return self._process(chats, [self._text(chat) for chat in chats], self.padding_side)

    def groups(self, groups: Sequence[Sequence[Chat]], max_chats: int) -> tuple[Iterator[ModelInputs], Tensor]:
        """Process groups of chats that begin alike: what a group shares comes once a row, pictures included.

        A group takes as few rows as it can (`grouping.plan`). Pixels are processed when their micro-batch is
        asked for, so that those of one or two are in memory.

        Args:
            groups: The groups.
            max_chats: At most this many chats in a micro-batch.

        Returns:
            Micro-batches of rows of like length, and `order` `[chats]`: vector `i` is that of chat `order[i]`, the
            chats being counted group by group.

        Raises:
            DataError: As for one chat, or if a chat holds no `<emb>`.
        """
        return self.bundles([[[chat] for chat in group] for group in groups], max_chats)

    def bundles(
        self, groups: Sequence[Sequence[Sequence[Chat]]], max_chats: int
    ) -> tuple[Iterator[ModelInputs], Tensor]:
        """As `groups`, a group being of bundles: chats that have more in common than the group, such as its beginnings.

        Args:
            groups: The groups of bundles; a bundle goes into one row.
            max_chats: At most this many chats in a micro-batch; a larger bundle is one of its own.
        """
        numbers = iter(range(sum(len(bundle) for group in groups for bundle in group)))
        members = [[[next(numbers) for _ in bundle] for bundle in group] for group in groups]
        token = self.processor.tokenizer.convert_tokens_to_ids(EMB_TOKEN)
        chats = [chat for group in groups for bundle in group for chat in bundle]
        inputs, visuals = self._read(chats, [self._text(chat) for chat in chats], self.padding_side)
        return group_inputs(inputs, visuals, members, token, max_chats)

    def prompts(self, chats: Sequence[Chat]) -> ModelInputs:
        """Process prompts for generation: padded on the left, ending where the assistant's turn begins."""
        return self._process(chats, [self._text(chat, prompt=True) for chat in chats], "left")

    def prompt_rows(self, chats: Sequence[Chat]) -> list[ModelInputs]:
        """What `prompts([chat])` makes of each chat, a picture that several of them show being processed once."""
        if not chats:
            return []
        inputs, visuals = self._read(chats, [self._text(chat, prompt=True) for chat in chats], "left")
        return split(inputs, visuals.shown, visuals.process(visuals.shown))

    def join(self, rows: Sequence[ModelInputs]) -> ModelInputs:
        """What `prompts` makes of chats at once, of their `prompt_rows`."""
        return join(rows, self.processor.tokenizer.pad_token_id)

    def lessons(self, lessons: Sequence[Lesson]) -> ModelInputs:
        """Process lessons for training: prompt, reply and end of turn, with `labels` on the last two alone."""
        chats = [lesson.chat for lesson in lessons]
        replies = [lesson.reply + self.end_of_turn for lesson in lessons]
        texts = [self._text(chat, prompt=True) for chat in chats]
        inputs = self._process(chats, [text + reply for text, reply in zip(texts, replies, strict=True)], "right")
        labels = torch.full_like(inputs["input_ids"], IGNORE)
        lengths = inputs["attention_mask"].sum(1).tolist()
        for row, reply in enumerate(self.processor.tokenizer(replies, add_special_tokens=False)["input_ids"]):
            end = lengths[row]
            labels[row, end - len(reply) : end] = inputs["input_ids"][row, end - len(reply) : end]
        return inputs | {"labels": labels}

    def as_read(self, chat: Chat) -> Chat:
        """The chat with every picture and frame at the size at which it enters the model: reading that changes nothing.

        Raises:
            DataError: If a picture is too narrow.
        """

        def resized(part: dict[str, Any]) -> dict[str, Any]:
            if part["type"] == "image":
                return part | {"image": tvf.to_pil_image(self._pixels(part["image"], self._budget(part)))}
            if part["type"] == "video":
                return part | {"video": [tvf.to_pil_image(frame) for frame in self._frames(part["video"])]}
            return part

        return [message | {"content": [resized(part) for part in _parts([message])]} for message in chat]

    def length(self, chat: Chat) -> int:
        """A cheap estimate of the chat's length in tokens: exact for pixels, a quarter of its characters for text."""
        tokens = 0
        for part in _parts(chat):
            if part["type"] == "image":
                height, width = self._target(part["image"].size, self._budget(part))
                tokens += height * width // self.factor**2 + 2
            elif part["type"] == "video":
                height, width = self._target(part["video"][0].size, self.frames)
                tokens += len(part["video"]) * (height * width // self.factor**2 + 4)
            else:
                tokens += len(part["text"]) // 4 + 1
        return tokens

    def fits(self, chat: Chat, prompt: bool = False) -> bool:
        """Whether the chat has at most `max_length` tokens; pictures are processed only where it is a close thing.

        Args:
            chat: The chat.
            prompt: Whether it is read as by `prompts`.

        Raises:
            DataError: If it cannot be read, whatever its length.
        """
        text = self._text(chat, prompt)
        visual = [part for part in _parts(chat) if part["type"] != "text"]
        most = self.length([{"content": visual}]) + 16 * sum(len(part.get("video", ())) for part in visual)
        if most + len(text.encode("utf-8", "replace")) <= self.max_length:
            return True
        tokens = len(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])
        if tokens > self.max_length or most + tokens <= self.max_length:
            return tokens <= self.max_length
        try:
            self._read([chat], [text], "right")
        except TooLongError:
            return False
        return True

    def _budget(self, part: dict[str, Any]) -> PixelBudget:
        return self.evidence if part.get("evidence") else self.images

    def _target(self, size: tuple[int, int], budget: PixelBudget) -> tuple[int, int]:
        """Height and width at which a picture of `size` (width, height) enters the model."""
        width, height = size
        try:
            target = smart_resize(height, width, self.factor, budget.min_pixels, budget.max_pixels)
        except ValueError as error:
            raise ThinPictureError(f"a picture of {width}x{height} pixels: {error}") from error
        return int(target[0]), int(target[1])

    def _pixels(self, image: Any, budget: PixelBudget) -> Tensor:
        """One picture as `[3, height, width]` uint8 at its budget."""
        return self._resized(image, self._target(image.size, budget))

    def _resized(self, image: Any, target: tuple[int, int]) -> Tensor:
        """One picture as `[3, height, width]` uint8 of a height and width.

        The processor would resize as well, but knows one budget a call; this is the same operation.
        """
        pixels: Tensor = tvf.pil_to_tensor(image)
        if tuple(pixels.shape[-2:]) != target:
            pixels = tvf.resize(pixels, list(target), interpolation=tvf.InterpolationMode.BICUBIC, antialias=True)
        return pixels

    def _text(self, chat: Chat, prompt: bool = False) -> str:
        parts = _parts(chat)
        if not parts:
            raise DataError("a chat without content cannot be embedded or answered")
        for part in parts:
            if part["type"] == "text":
                for token in self.placeholders:
                    if token in part["text"]:
                        raise DataError(
                            f"the text {_excerpt(part['text'])} holds {token}, which marks pixels: remove it"
                        )
        chat = [escape_message(message, self.reserved) for message in chat]
        return str(self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt))

    def _process(self, chats: Sequence[Chat], texts: list[str], side: str) -> ModelInputs:
        inputs, visuals = self._read(chats, texts, side)
        return inputs | visual_inputs(visuals.shown, visuals.process(visuals.shown))

    def _read(self, chats: Sequence[Chat], texts: list[str], side: str) -> tuple[ModelInputs, Visuals]:
        """The inputs without pixels, and the pictures and videos, not processed yet.

        What `Qwen3VLProcessor.__call__` would make, step by step.
        """
        visuals = self._visuals(chats)
        placeholders = ([v.placeholder for v in visuals.shown[kind]] for kind in (IMAGE, VIDEO))
        # A copy: the processor expands the placeholders in place.
        expanded, _ = self.processor.get_text_with_replacements(list(texts), *placeholders)
        inputs = dict(
            self.processor.tokenizer(
                expanded,
                padding=True,
                padding_side=side,
                add_special_tokens=False,
                return_token_type_ids=False,
                return_tensors="pt",
            )
        )
        for text, length in zip(texts, inputs["attention_mask"].sum(1).tolist(), strict=True):
            if length > self.max_length:
                raise TooLongError(
                    f"the chat {_excerpt(text)} has {length} tokens, more than max_length={self.max_length}: "
                    "shorten it, lower the pixel budgets or raise max_length"
                )
        kinds = torch.zeros_like(inputs["input_ids"])
        for kind, tokens in ((IMAGE, self.processor.image_token_ids), (VIDEO, self.processor.video_token_ids)):
            kinds[torch.isin(inputs["input_ids"], torch.tensor(tokens))] = kind
        inputs["mm_token_type_ids"] = kinds
        shown = visuals.shown.items()
        grids = {VISUAL[kind][0]: torch.stack([v.grid for v in items]) for kind, items in shown if items}
        inputs["position_ids"] = mrope_positions(inputs | grids, self.processor.image_processor.merge_size)
        return inputs, visuals

    def _visuals(self, chats: Sequence[Chat]) -> Visuals:
        visuals = Visuals(self.processor)
        for part in (part for chat in chats for part in _parts(chat)):
            if part["type"] == "image":
                image, budget = part["image"], self._budget(part)
                size = self._target(image.size, budget)
                # By identity: what makes the pixels holds the picture, so that no other one takes its place in memory.
                visuals.add_image((id(image), budget), size, partial(self._resized, image, size))
            elif part["type"] == "video":
                frames, fps = part["video"], part.get("fps", 2.0)
                size = self._target(frames[0].size, self.frames)
                visuals.add_video((*map(id, frames), fps), size, len(frames), fps, partial(self._frames, frames))
        return visuals

    def _frames(self, frames: Sequence[Any]) -> Tensor:
        """The frames of a video as `[frames, 3, height, width]`, all at the size of the first, as FFmpeg does."""
        target = self._target(frames[0].size, self.frames)
        return torch.stack([self._resized(frame, target) for frame in frames])


def _parts(chat: Chat) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for message in chat:
        content = message["content"]
        parts += [{"type": "text", "text": content}] if isinstance(content, str) else content
    return parts


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
