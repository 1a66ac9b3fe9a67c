"""A Reasoner in a program: it writes the T-CoT of a text, a picture or a video."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import torch

from embedrl.api.items import Item, is_one, marks_of, to_side, without_marks
from embedrl.api.options import choose, choose_device, choose_dtype, seeded
from embedrl.api.thought import Thought
from embedrl.data.on_bad import BadSample, OnBadMode
from embedrl.data.video import NUM_FRAMES
from embedrl.errors import CheckpointError, ConfigError, DataError
from embedrl.inference.tcot_writer import TCoTRequest, generate_tcots
from embedrl.models.generator import Generator
from embedrl.tcot.prompts import Style
from embedrl.training.trained_model import load_reasoner
from embedrl.types import Modality, Role, Side
from embedrl.utils.progress_bar import progress_bar
from embedrl.utils.ranges import check_least

_log = logging.getLogger(__name__)


class Reasoner:
    """A model that writes T-CoTs. `Reasoner.from_pretrained` loads one.

    Args:
        generator: The model; it is built, frozen and moved.
        device: Where it computes: `auto` takes a GPU if there is one.
        style: The prompt: `full` explains the format; `brief` is for models that were trained on it, as those of the
            built-in world.
        batch_size: Prompts that are answered at once.
        max_new_tokens: Longest reply, in tokens.
        num_frames: Frames sampled from a video's file or folder.

    Raises:
        ConfigError: If an option is out of range, or there is no such device.
    """

    def __init__(
        self,
        generator: Generator,
        device: str | torch.device = "auto",
        style: Style = "full",
        batch_size: int = 32,
        max_new_tokens: int = 512,
        num_frames: int = NUM_FRAMES,
    ) -> None:
        check_least(1, {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "num_frames": num_frames})
        if style not in ("full", "brief"):
            raise ConfigError(f"style {style!r}: give full or brief")
        self.device, self.style, self.num_frames = choose_device(device), style, num_frames
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens
        generator.build()
        self.generator = generator.requires_grad_(False).eval().to(self.device)
        self._marks = marks_of(generator.preprocessor())

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | Generator,
        *,
        device: str | torch.device = "auto",
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        style: Style = "full",
        batch_size: int = 32,
        max_new_tokens: int = 512,
        num_frames: int = NUM_FRAMES,
    ) -> Reasoner:
        """Load a Reasoner.

        Args:
            model: What `embedrl fit` or `embedrl export` wrote (a run's folder, a `.ckpt`, an export, an adapter), the
                folder or Hub name of a vision-language model, a name of the package (`embedrl:world_base`), or a
                `Generator`.
            device: Where it computes: `auto` takes a GPU if there is one.
            dtype: Type of the weights: `auto` is float32 on a CPU, and on a GPU the type in which they are stored. A
                `.ckpt` keeps its own.
            style: See `Reasoner`.
            batch_size: See `Reasoner`.
            max_new_tokens: See `Reasoner`.
            num_frames: See `Reasoner`.

        Raises:
            CheckpointError: If it cannot be read, or is no Reasoner's.
            ConfigError: If an option is out of range, or there is no such device.
        """
        place = choose_device(device)
        try:
            generator = model if isinstance(model, Generator) else load_reasoner(str(model), choose_dtype(dtype, place))
        except CheckpointError as error:
            raise CheckpointError(str(error).removeprefix("--checkpoint ")) from error
        reasoner = cls(generator, place, style, batch_size, max_new_tokens, num_frames)
        _log.info("Reasoner %s on %s in %s", model, place, reasoner.dtype)
        return reasoner

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.generator.parameters()).dtype

    def __repr__(self) -> str:
        kind = type(self.generator).__name__
        return f"Reasoner({kind}, device={str(self.device)!r}, dtype={str(self.dtype).removeprefix('torch.')!r})"

    @overload
    def reason(
        self, item: list[Any], *, role: Literal["query", "target"] = ...,
        counterpart: Literal["text", "image", "video"] = ..., temperature: float = ..., top_p: float = ...,
        seed: int | None = ..., max_new_tokens: int | None = ..., progress: bool | None = ...,
    ) -> list[Thought]: ...  # fmt: skip

    @overload
    def reason(
        self, item: Item = ..., *, text: str | None = ..., image: Any = ..., video: Any = ...,
        role: Literal["query", "target"] = ..., counterpart: Literal["text", "image", "video"] = ...,
        temperature: float = ..., top_p: float = ..., seed: int | None = ..., max_new_tokens: int | None = ...,
        progress: bool | None = ...,
    ) -> Thought: ...  # fmt: skip

    def reason(
        self,
        item: Item | Iterable[Item] = None,
        *,
        text: str | None = None,
        image: Any = None,
        video: Any = None,
        role: Literal["query", "target"] = "query",
        counterpart: Literal["text", "image", "video"] = "image",
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        max_new_tokens: int | None = None,
        progress: bool | None = None,
    ) -> Thought | list[Thought]:
        """Write the T-CoT of one item, or of each of several.

        Args:
            item: See `embedrl.api.to_side`; a list gives a list. Leave it out to give its parts by name.
            text: The item's text.
            image: Its picture: a file's name, or Pillow's.
            video: Its video: a file, a folder of frames, or a list of them.
            role: Whether the items search, or are what others search for.
            counterpart: What is on the other side; only the prompt of a text query depends on it.
            temperature: 0 takes the likeliest token; otherwise tokens are drawn.
            top_p: Draw among the likeliest tokens that hold this much probability.
            seed: Seed of what is drawn; None draws from torch's global generator.
            max_new_tokens: Longest reply, in tokens; None means the Reasoner's.
            progress: Whether to show a bar; None: for many items on a terminal.

        Raises:
            ConfigError: If an option is wrong, or both an item and its parts are given.
            DataError: If an item cannot be read; the message names its position.
        """
        parts = {name: part for name, part in (("text", text), ("image", image), ("video", video)) if part is not None}
        if (item is None) == (not parts):
            raise ConfigError("reason: give an item (or a list of items), or its text, image and video by name")
        items = [parts] if item is None else [item] if is_one(item) else list(item)
        sides = [self._side(one, f"item {i}") for i, one in enumerate(items)]
        with seeded(seed if temperature > 0 else None, self.device):
            replies = self.write(
                sides, role=role, counterpart=counterpart, temperature=temperature, top_p=top_p,
                max_new_tokens=max_new_tokens, progress=progress,
            )  # fmt: skip
        thoughts = [Thought(side.with_tcot(str(reply))) for side, reply in zip(sides, replies, strict=True)]
        return thoughts[0] if item is None or is_one(item) else thoughts

    def write(
        self,
        sides: Sequence[Side],
        *,
        role: str = "query",
        counterpart: str = "image",
        names: Sequence[str] | None = None,
        on_bad: OnBadMode = "raise",
        temperature: float = 0.0,
        top_p: float = 1.0,
        max_new_tokens: int | None = None,
        progress: bool | None = False,
    ) -> list[str | BadSample]:
        """The replies about sides; what `reason` is made of.

        Args:
            sides: The sides.
            role: See `reason`.
            counterpart: See `reason`.
            names: Name of each side for errors; None means its position.
            on_bad: A side that cannot be shown: `raise`, or `skip`, with which the reply says what is wrong.
            temperature: See `reason`.
            top_p: See `reason`.
            max_new_tokens: See `reason`.
            progress: See `reason`.

        Raises:
            ConfigError: If an option is wrong.
            DataError: If a side cannot be shown and `on_bad` is `raise`.
        """
        if temperature < 0 or not 0 < top_p <= 1:
            raise ConfigError(f"temperature {temperature}, top_p {top_p}: give 0 or more, and a share above 0 up to 1")
        half, other = choose(Role, role, "role"), choose(Modality, counterpart, "counterpart")
        where = names or [f"item {i}" for i in range(len(sides))]
        requests = [TCoTRequest(side, half, other, name) for side, name in zip(sides, where, strict=True)]
        limit = self.max_new_tokens if max_new_tokens is None else max_new_tokens
        batches = generate_tcots(
            requests, self.generator, self.device, self.style, self.batch_size, limit, on_bad, temperature, top_p
        )
        replies: list[str | BadSample] = []
        with progress_bar("reason", len(sides), progress, least=8) as advance:
            for batch in batches:
                replies += batch
                advance(len(batch))
        return replies

    def _side(self, item: Item, where: str) -> Side:
        try:
            return without_marks(to_side(item, self.num_frames), self._marks)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
