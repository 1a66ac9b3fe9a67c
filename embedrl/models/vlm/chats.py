"""Chats as a family's chat template and processor take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL.Image import Image

from embedrl.models.vlm.boxes import Coordinates, to_family
from embedrl.types import Chat


def end_of_turn(processor: Any) -> str:
    """The token that ends the assistant's turn in the chat template, the tokenizer's own end if there is none."""
    tokenizer, said = processor.tokenizer, "x"
    turns = (("user", "y"), ("assistant", said))
    chat = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    _, _, tail = processor.apply_chat_template(chat, tokenize=False).rpartition(said)
    special = set(tokenizer.all_special_ids)
    ends = [token for token in tokenizer(tail, add_special_tokens=False)["input_ids"] if token in special]
    return str(tokenizer.convert_ids_to_tokens(ends[0])) if ends else str(tokenizer.eos_token)


def with_boxes(message: dict[str, Any], coordinates: Coordinates, size: tuple[float, float]) -> dict[str, Any]:
    """A message whose boxes are written as a family does."""
    content = [
        part | {"text": to_family(part["text"], coordinates, size)} if part["type"] == "text" else part
        for part in parts([message])
    ]
    return message | {"content": content}


def placeholders(processor: Any) -> tuple[str, ...]:
    """The words that stand for pixels or sounds."""
    names = ("image_token", "video_token", "audio_token")
    owners = (processor, processor.tokenizer)
    return tuple(sorted({str(word) for owner in owners for name in names if (word := getattr(owner, name, None))}))


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


def same_size(frames: Sequence[Image], least: int) -> list[Image]:
    """The frames of a video, all at the size of the first, the last one repeated until there are `least`."""
    shown = [*frames, *[frames[-1]] * (least - len(frames))]
    return [frame if frame.size == frames[0].size else frame.resize(frames[0].size) for frame in shown]


def excerpt(text: str) -> str:
    """The beginning of a text, for errors."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
