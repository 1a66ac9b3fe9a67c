"""An Embedder as a module of sentence-transformers, which reads pictures, videos and texts as in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from embedrl.data.images import is_picture
from embedrl.data.in_memory import picture_source
from embedrl.data.render import RenderOptions, render
from embedrl.errors import ConfigError, DataError
from embedrl.losses.maxsim import token_mask
from embedrl.models.backbone import Backbone
from embedrl.models.exported import load_backbone
from embedrl.types import ImageSource, Side
from embedrl.utils.reserved_words import QWEN, as_pattern, escape

_RAW = RenderOptions(tcot="none")


class SentenceTransformersModule(nn.Module):
    """An Embedder for `SentenceTransformer(modules=[SentenceTransformersModule("my_embedder")])`.

    One that gives a vector a token (`LateInteraction`) goes into `MultiVectorEncoder(modules=[...])`, pooled as in
    training.

    `SentenceTransformer("my_embedder")` alone reads with transformers' loaders. This module takes the same inputs and
    gives embedrl's vectors: transparency on white, EXIF orientation, 16 bits, all pixel budgets, frames without
    metadata at two a second, a prompt in front of the text, words that are special tokens read as text. It also
    serves an OpenCLIP Embedder, which sentence-transformers cannot load by itself.

    An input is a text; a picture (a file's name, Pillow's, an array of `[height, width, 3]` or `[3, height, width]`);
    a dict of `text`, `image` (one or a list) and `video` (a list of pictures, an array of frames, or `{"array": ...,
    "video_metadata": {"fps": ...}}`); or a chat of one user turn, and a system turn that counts as a prompt.

    Args:
        embedder: A folder that `embedrl export` wrote, any other that `VLMBackbone` takes, or a `Backbone`.

    Raises:
        CheckpointError: If the folder cannot be read, or holds no Embedder.
    """

    def __init__(self, embedder: str | Path | Backbone) -> None:
        super().__init__()
        self.backbone = embedder if isinstance(embedder, Backbone) else load_backbone(str(embedder))
        self.backbone.build()
        self.backbone.eval()
        self._preprocessor = self.backbone.preprocessor()
        # A data set with a word that marks pixels is refused, a user's query is not.
        self._marks = as_pattern(getattr(self._preprocessor, "placeholders", ()))

    @property
    def modalities(self) -> list[str]:
        """What sentence-transformers may hand over."""
        return ["text", "image", "video", "message"]

    @property
    def max_seq_length(self) -> int | None:
        """Longest input in tokens; None for OpenCLIP, which cuts its texts."""
        return getattr(self.backbone, "max_length", None)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; None if the preprocessor has none."""
        processor = getattr(self._preprocessor, "processor", self._preprocessor)
        return getattr(processor, "tokenizer", None)

    @torch.no_grad()
    def get_embedding_dimension(self) -> int:
        """Dimension of the vectors."""
        inputs = self.preprocess(["a"])
        device = next(self.backbone.parameters()).device
        return self.backbone.encode({name: value.to(device) for name, value in inputs.items()}).shape[-1]

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Tensor]:
        """The model's inputs.

        Args:
            inputs: See the class.
            prompt: Put in front of every text.

        Raises:
            DataError: If an input cannot be read.
        """
        chats = []
        for i, item in enumerate(inputs):
            try:
                side = to_side(item, prompt or "")
                chats.append(render(replace(side, text=escape(side.text, self._marks)), _RAW))
            except DataError as error:
                raise DataError(f"input {i} of the batch: {error}") from error
        return dict(self._preprocessor(chats))

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Add the unit vectors as `sentence_embedding`, or as `token_embeddings` with their mask."""
        if self.backbone.multi_vector:
            vectors = self.backbone.encode(features)
            return features | {"token_embeddings": vectors, "attention_mask": token_mask(vectors)}
        return features | {"sentence_embedding": self.backbone.encode(features)}

    def save(self, *_: Any, **__: Any) -> None:
        """Refused: `embedrl export` writes the folder.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("save_pretrained: this module is loaded from a folder of `embedrl export`; copy that folder")


def to_side(item: Any, prompt: str = "") -> Side:
    """An input of sentence-transformers as a side.

    Args:
        item: See `SentenceTransformersModule`.
        prompt: Put in front of its text.

    Raises:
        DataError: If it is none of these.
    """
    if isinstance(item, Mapping) and "role" in item:
        item = [item]
    if isinstance(item, Sequence) and not isinstance(item, str) and item and _is_message(item[0]):
        item, prompt = _of_chat(item, prompt)
    if not isinstance(item, Mapping) or "array" in item:
        item = {_kind(item): item}
    if unknown := item.keys() - {"text", "image", "video"}:
        raise DataError(f"an input with {', '.join(map(str, sorted(unknown)))}: give text, image and video")
    texts, images = _as_list(item.get("text")), _as_list(item.get("image"))
    if any(not isinstance(text, str) for text in texts):
        raise DataError("a text that is no string: give one")
    frames, fps = _video(item["video"]) if item.get("video") is not None else ((), Side().fps)
    text = escape(prompt + "\n".join(texts), QWEN)  # a data set with such a word is refused, a user's query is not
    return Side(text, tuple(picture_source(image) for image in images), frames, fps=fps)


def _kind(item: Any) -> str:
    if isinstance(item, str):
        return "image" if is_picture(item) and Path(item).is_file() else "text"
    if isinstance(item, Mapping) or (isinstance(item, Sequence) and item):
        return "video"
    if isinstance(item, Image.Image):
        return "image"
    if isinstance(item, np.ndarray | Tensor) and item.ndim in (3, 4):
        return "image" if item.ndim == 3 else "video"
    raise DataError(f"an input of type {type(item).__name__}: give a text, a picture, frames, a dict or a chat")


def _of_chat(chat: Sequence[Mapping[str, Any]], prompt: str) -> tuple[dict[str, Any], str]:
    """The content of a chat's user turn, and the prompt with that of its system turn behind it."""
    roles = [message["role"] for message in chat]
    if roles not in (["user"], ["system", "user"]):
        raise DataError(f"a chat of {', '.join(map(str, roles))}: give one user turn, and a system turn before it")
    parts: dict[str, list[Any]] = {"text": [], "image": [], "video": []}
    for message in chat:
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            kind = part.get("type")
            if kind not in parts or (message["role"] == "system" and kind != "text"):
                raise DataError(f"a chat with a part of type {kind!r}: give text, image and video")
            if message["role"] == "system":
                prompt += part["text"]
            else:
                parts[kind].append(part[kind])
    if len(parts["video"]) > 1:
        raise DataError("a chat with several videos: give one")
    return {"text": parts["text"], "image": parts["image"], "video": next(iter(parts["video"]), None)}, prompt


def _is_message(item: Any) -> bool:
    return isinstance(item, Mapping) and "role" in item and "content" in item


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _video(video: Any) -> tuple[tuple[ImageSource, ...], float]:
    """The frames of a video, and how many there are a second."""
    metadata: Any = {}
    if isinstance(video, Mapping):
        video, metadata = video.get("array"), video.get("video_metadata") or {}
    if isinstance(video, str | Path) or video is None:
        raise DataError(f"a video of {video!r}: give its frames, as a list of pictures or an array")
    frames = tuple(picture_source(frame) for frame in video)
    if not frames:
        raise DataError("a video without frames: give some")
    indices = [int(index) for index in metadata.get("frames_indices") or range(len(frames))]
    if len(indices) != len(frames):
        raise DataError(f"a video of {len(frames)} frames with {len(indices)} frames_indices: give as many")
    fps = float(metadata.get("fps") or Side().fps)
    stretch = (indices[-1] - indices[0]) / (len(frames) - 1) if len(frames) > 1 else 1.0
    return frames, fps / stretch if stretch > 0 else fps
