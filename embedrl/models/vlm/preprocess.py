"""Chats → inputs of a vision-language model. Holds a processor and no weights, so it pickles into loader workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn.functional import pad
from transformers.video_utils import VideoMetadata

from embedrl.data.images import check_size
from embedrl.data.inputs import ModelInputs
from embedrl.errors import ConfigError, DataError, ThinPictureError, TooLongError, said
from embedrl.models.packing import IGNORE
from embedrl.models.vlm.boxes import to_family, to_thousand
from embedrl.models.vlm.chats import as_pictures, end_of_turn, excerpt, parts, placeholders, same_size, with_boxes
from embedrl.models.vlm.family import VLMFamily
from embedrl.models.vlm.rows import COUNTS, PICTURE_SIZE, TOKENS, append, picture_inputs
from embedrl.types import Chat, Lesson
from embedrl.utils.reserved_words import escape_message, own_words

_THIN = 20
"""A picture that cannot be processed counts as too thin if one side is more than this many times the other, or 1."""


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
        self.end_of_turn = end_of_turn(processor)
        self.reserved = own_words(processor.tokenizer)

    def __call__(self, chats: Sequence[Chat]) -> ModelInputs:
        """Process one micro-batch for embedding: one chat a row.

        Raises:
            DataError: If a chat is empty, too long, cannot be processed, or its text holds a visual placeholder token.
        """
        return self._join([self._read(chat) for chat in chats], self.padding_side)

    def prompts(self, chats: Sequence[Chat]) -> ModelInputs:
        """Process prompts for generation: padded on the left, ending where the assistant's turn begins."""
        return self.join(self.prompt_rows(chats))

    def prompt_rows(self, chats: Sequence[Chat]) -> list[ModelInputs]:
        """What `prompts([chat])` makes of each chat."""
        return [self._read(chat, prompt=True) for chat in chats]

    def join(self, rows: Sequence[ModelInputs]) -> ModelInputs:
        """What `prompts` makes of chats at once, of their `prompt_rows`."""
        joined = self._join(rows, "left")
        # So that the batch can be taken apart: how many entries of each input of pictures belong to a chat.
        filled = int(self.family.pictures_by_row)
        names = picture_inputs(joined)
        joined[COUNTS] = torch.tensor([[len(row[n]) if n in row else filled for n in names] for row in rows]).long()
        return joined

    def lessons(self, lessons: Sequence[Lesson]) -> ModelInputs:
        """Process lessons for training: prompt, reply and end of turn, with `labels` on the last two alone."""
        prompts = self.prompt_rows([lesson.chat for lesson in lessons])
        replies = [
            self.as_written(lesson.reply, row) + self.end_of_turn for lesson, row in zip(lessons, prompts, strict=True)
        ]
        tokens = self.processor.tokenizer(replies, add_special_tokens=False)["input_ids"]
        inputs = self._join(
            [append(row, ids, self.family.reply_type) for row, ids in zip(prompts, tokens, strict=True)], "right"
        )
        inputs["labels"] = torch.full_like(inputs["input_ids"], IGNORE)
        for number, (row, ids) in enumerate(zip(prompts, tokens, strict=True)):
            start = row["input_ids"].shape[1]
            self._check_length(start + len(ids), lessons[number].chat)
            inputs["labels"][number, start : start + len(ids)] = torch.tensor(ids)
        return inputs

    def fits(self, chat: Chat, prompt: bool = False) -> bool:
        """Whether the chat has at most `max_length` tokens.

        Args:
            chat: The chat.
            prompt: Whether it is read as by `prompts`.

        Raises:
            DataError: If it cannot be read, whatever its length.
        """
        try:
            self._read(chat, prompt)
        except TooLongError:
            return False
        return True

    def as_read(self, chat: Chat) -> Chat:
        """Not known: every family's processor resizes in its own way.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("model.engine: a server's rollouts need a QwenVLReasoner, whose pictures can be sent as read")

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
            raise ThinPictureError(f"a picture of {size[0]}x{size[1]} pixels: {error}") from error

    def _join(self, rows: Sequence[ModelInputs], side: str) -> ModelInputs:
        """One batch of rows, padded on a side."""
        width = max(row["input_ids"].shape[1] for row in rows)
        joined: ModelInputs = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            if name == PICTURE_SIZE:
                values = [row[name] for row in rows]
            elif name in TOKENS:
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

    def _read(self, chat: Chat, prompt: bool = False) -> ModelInputs:
        """The inputs of one chat, as the processor makes them.

        Args:
            chat: The chat.
            prompt: Whether it ends where the assistant's turn begins.
        """
        images = [part["image"] for part in parts(chat) if part["type"] == "image"]
        size = self._first_size(images)
        if size is not None:
            chat = [with_boxes(message, self.family.boxes, size) for message in chat]
        chat = chat if self.family.reads_video else [as_pictures(message) for message in chat]
        text = self._text(chat, prompt)
        images = [part["image"] for part in parts(chat) if part["type"] == "image"]
        videos = [part for part in parts(chat) if part["type"] == "video"]
        sizes = [picture.size for picture in (*images, *(frame for part in videos for frame in part["video"]))]
        for width, height in sizes:
            check_size(width, height, f"a picture of the chat {excerpt(text)}", cure="shrink it")
        tokenizer = self.processor.tokenizer
        # As `apply_chat_template(tokenize=True)` does: a template that begins with this token needs no second one.
        begun = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        options: dict[str, Any] = {"text_kwargs": {"add_special_tokens": not begun}}
        if videos:
            steps = getattr(self.processor.video_processor, "temporal_patch_size", 1)
            frames = [same_size(part["video"], steps) for part in videos]
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
            made = self.family.read(self.processor, text, images, options)
        except (ValueError, IndexError, ZeroDivisionError, RuntimeError) as error:
            # How thin is too thin is each processor's own affair, and so is what it raises.
            thin = any(min(size) == 1 or max(size) > _THIN * min(size) for size in sizes)
            raise DataError(
                f"the chat {excerpt(text)} cannot be processed: {said(error)}; its pictures have "
                f"{', '.join(f'{width}x{height}' for width, height in sizes) or 'no'} pixels: leave it out",
                "thin_picture" if thin else "",
            ) from error
        self._check_length(made["input_ids"].shape[1], chat)
        row = self.family.taken_apart({n: v if isinstance(v, Tensor) else torch.tensor(v) for n, v in made.items()})
        if prompt and self.family.boxes != "thousand":
            row[PICTURE_SIZE] = torch.tensor([size or (0.0, 0.0)])
        return row

    def _first_size(self, images: Sequence[Image]) -> tuple[float, float] | None:
        """Width and height in which boxes on the first picture are written, if they are not those of T-CoTs."""
        if self.family.boxes == "thousand" or not images:
            return None
        if self.family.boxes == "unit":
            return 1.0, 1.0
        try:
            return self.family.picture_size(self.processor, images[0].size)
        except ValueError as error:
            raise ThinPictureError(f"a picture of {images[0].size[0]}x{images[0].size[1]} pixels: {error}") from error

    def as_written(self, reply: str, prompt: ModelInputs) -> str:
        """A T-CoT as the family writes it.

        Args:
            reply: The T-CoT.
            prompt: The row of its prompt.
        """
        width, height = prompt[PICTURE_SIZE][0].tolist() if PICTURE_SIZE in prompt else (0.0, 0.0)
        return to_family(reply, self.family.boxes, (width, height)) if width else reply

    def as_told(self, replies: Sequence[str], prompts: ModelInputs) -> list[str]:
        """Replies as T-CoTs are written.

        Args:
            replies: What the model wrote.
            prompts: The batch of prompts, one for each.
        """
        if PICTURE_SIZE not in prompts:
            return list(replies)
        sizes = prompts[PICTURE_SIZE].tolist()
        return [
            to_thousand(reply, self.family.boxes, (size[0], size[1])) if size[0] else reply
            for reply, size in zip(replies, sizes, strict=True)
        ]

    def _check_length(self, length: int, chat: Chat) -> None:
        if length > self.max_length:
            raise TooLongError(
                f"the chat {excerpt(self._text(chat, True))} has {length} tokens, more than "
                f"max_length={self.max_length}: shorten it, let pictures be read smaller or raise max_length"
            )

    def _text(self, chat: Chat, prompt: bool) -> str:
        content = parts(chat)
        if not content:
            raise DataError("a chat without content cannot be embedded or answered")
        for part in content:
            if part["type"] == "text" and (marks := [mark for mark in self.placeholders if mark in part["text"]]):
                raise DataError(f"the text {excerpt(part['text'])} holds {marks[0]}, which marks pixels: remove it")
        chat = [escape_message(message, self.reserved) for message in chat]
        return str(self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt))
