"""An Embedder in a program: texts, pictures, videos and mixtures of them → unit vectors."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedrl.api.encoding import Encoded, Encoder, encode_parts
from embedrl.api.items import Item, is_one, marks_of
from embedrl.api.options import choose, choose_device, choose_dtype
from embedrl.api.reading import ItemReader, with_replies
from embedrl.api.reasoner import Reasoner
from embedrl.api.thought import Thought
from embedrl.api.training import Lora, fit
from embedrl.data.on_bad import BadSample, OnBadMode
from embedrl.data.render import RenderOptions
from embedrl.data.video import NUM_FRAMES
from embedrl.errors import CheckpointError, ConfigError
from embedrl.evaluation.identity import fingerprint
from embedrl.inference.frozen_embedder import LENIENT, FrozenEmbedder
from embedrl.models.backbone import Backbone
from embedrl.models.generator import Generator
from embedrl.training.exporting import check_new, write_export
from embedrl.training.trained_model import load_embedder, locate
from embedrl.types import Modality, Role, Side
from embedrl.utils.progress_bar import progress_bar
from embedrl.utils.ranges import check_least

_log = logging.getLogger(__name__)

Array = NDArray[np.float32]


class Embedder:
    """A model that embeds, with a Reasoner or without. `Embedder.from_pretrained` loads one.

    Args:
        backbone: The model; it is built, frozen and moved.
        reasoner: A Reasoner that writes the T-CoTs of items that have none.
        device: Where it computes: `auto` takes a GPU if there is one.
        micro_batch_size: Items that go through it at once.
        render: What it reads of an item and its T-CoT.
        num_frames: Frames sampled from a video's file or folder.

    Attributes:
        reloads: Whether its weights are those of the place that its model names; else they are known here alone.

    Raises:
        ConfigError: If an option is out of range, or there is no such device.
    """

    def __init__(
        self,
        backbone: Backbone,
        reasoner: Reasoner | None = None,
        device: str | torch.device = "auto",
        micro_batch_size: int = 32,
        render: RenderOptions = LENIENT,
        num_frames: int = NUM_FRAMES,
    ) -> None:
        check_least(1, {"micro_batch_size": micro_batch_size, "num_frames": num_frames})
        self.device, self.reasoner, self.render, self.num_frames = choose_device(device), reasoner, render, num_frames
        self.backbone = FrozenEmbedder(backbone, render).build(self.device)
        preprocessor = backbone.preprocessor()
        self.reloads = False
        self._encoder = Encoder(self.backbone, preprocessor, render, self.device, micro_batch_size)
        self._reader = ItemReader(num_frames, marks_of(preprocessor))

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | Backbone,
        *,
        reasoner: str | Path | Generator | Reasoner | None = None,
        device: str | torch.device = "auto",
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        micro_batch_size: int = 32,
        render: RenderOptions = LENIENT,
        num_frames: int = NUM_FRAMES,
    ) -> Embedder:
        """Load an Embedder, and a Reasoner if one is named.

        Args:
            model: What `embedrl fit` or `embedrl export` wrote (a run's folder, a `.ckpt`, an export, an adapter), the
                folder or Hub name of a vision-language model, a name of the package (`embedrl:world_base`), or a
                `Backbone`.
            reasoner: A Reasoner, or what `Reasoner.from_pretrained` takes: it writes the T-CoTs of items without one.
            device: Where both compute: `auto` takes a GPU if there is one.
            dtype: Type of the weights: `auto` is float32 on a CPU, and on a GPU the type in which they are stored. A
                `.ckpt` and an OpenCLIP Embedder keep their own.
            micro_batch_size: Items that go through it at once.
            render: What it reads of an item and its T-CoT: the switches of the ablations.
            num_frames: Frames sampled from a video's file or folder.

        Raises:
            CheckpointError: If a model cannot be read, or is of the other kind.
            ConfigError: If an option is out of range, or there is no such device.
        """
        place = choose_device(device)
        try:
            backbone = model if isinstance(model, Backbone) else load_embedder(str(model), choose_dtype(dtype, place))
        except CheckpointError as error:
            raise CheckpointError(str(error).removeprefix("--checkpoint ")) from error
        if reasoner is not None and not isinstance(reasoner, Reasoner):
            reasoner = Reasoner.from_pretrained(reasoner, device=place, dtype=dtype, num_frames=num_frames)
        embedder = cls(backbone, reasoner, place, micro_batch_size, render, num_frames)
        embedder.reloads = not isinstance(model, Backbone) and locate(str(model)) is None
        _log.info("Embedder %s on %s in %s", model, place, embedder.dtype)
        return embedder

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.backbone.parameters()).dtype

    @property
    def micro_batch_size(self) -> int:
        """Items that go through the model at once."""
        return self._encoder.micro_batch_size

    @cached_property
    def dim(self) -> int:
        """Length of a vector."""
        return self._encoder.vectors([Side("a")], ["a text"])[0].shape[1]

    @cached_property
    def fingerprint(self) -> str:
        """What tells its vectors from those of another model: 32 hexadecimal digits.

        A hash of the weights by value, what is read of a side (`render`, pixel budgets, fusion) and the model's class;
        the device, the type of the weights and the folder they came from do not count. An adapter and the weights that
        it is merged into have two.
        """
        return fingerprint(self.backbone, self.render)

    def __repr__(self) -> str:
        kind, dtype = type(self.backbone).__name__, str(self.dtype).removeprefix("torch.")
        reasoner = f", reasoner={self.reasoner!r}" if self.reasoner is not None else ""
        return f"Embedder({kind}, device={str(self.device)!r}, dtype={dtype!r}{reasoner})"

    @overload
    def encode(
        self, items: Item | Iterable[Item], *, role: Literal["query", "target"] = ..., instruction: str | None = ...,
        tcots: Any = ..., reason: bool | None = ..., counterpart: Literal["text", "image", "video"] = ...,
        progress: bool | None = ..., as_tensor: Literal[False] = ..., on_bad: Literal["raise"] = ...,
    ) -> Array: ...  # fmt: skip

    @overload
    def encode(
        self, items: Item | Iterable[Item], *, role: Literal["query", "target"] = ..., instruction: str | None = ...,
        tcots: Any = ..., reason: bool | None = ..., counterpart: Literal["text", "image", "video"] = ...,
        progress: bool | None = ..., as_tensor: Literal[True], on_bad: Literal["raise"] = ...,
    ) -> Tensor: ...  # fmt: skip

    @overload
    def encode(
        self, items: Item | Iterable[Item], *, role: Literal["query", "target"] = ..., instruction: str | None = ...,
        tcots: Any = ..., reason: bool | None = ..., counterpart: Literal["text", "image", "video"] = ...,
        progress: bool | None = ..., as_tensor: bool = ..., on_bad: Literal["skip"],
    ) -> Encoded: ...  # fmt: skip

    def encode(
        self,
        items: Item | Iterable[Item],
        *,
        role: Literal["query", "target"] = "query",
        instruction: str | None = None,
        tcots: str | Thought | Sequence[str | Thought | None] | None = None,
        reason: bool | None = None,
        counterpart: Literal["text", "image", "video"] = "image",
        progress: bool | None = None,
        as_tensor: bool = False,
        on_bad: OnBadMode = "raise",
    ) -> Array | Tensor | Encoded:
        """Embed items: texts, files, pictures, dicts or sides; see `embedrl.api.to_side`.

        Args:
            items: One item, or several: a list or any other iterable.
            role: Whether they search, or are what others search for; only the prompt of a Reasoner depends on it.
            instruction: Put in front of every text, with a blank between.
            tcots: The T-CoT of each item, as texts or as a Reasoner's thoughts; one item takes one. None means the
                items' own.
            reason: Let the Reasoner write the T-CoTs of items without one; None: if there is a Reasoner.
            counterpart: What is on the other side; only a Reasoner's prompt of a text query depends on it.
            progress: Whether to show a bar on stderr; None: for many items on a terminal.
            as_tensor: Return a tensor (on the CPU) rather than a numpy array.
            on_bad: An item that cannot be read: `raise`, or `skip`, with which `Encoded` says which items were kept.

        Returns:
            Unit vectors, float32, in the order of the items: `[items, dim]`; of one item `[dim]`. Under `skip` an
            `Encoded`.

        Raises:
            ConfigError: If an option is wrong, or there is no Reasoner to reason with.
            DataError: If an item cannot be read and `on_bad` is `raise`; the message names its position.
            NonFiniteError: If a vector is NaN or infinite.
        """
        half = choose(Role, role, "role")
        other = choose(Modality, counterpart, "counterpart")
        if reason and self.reasoner is None:
            raise ConfigError("reason=True: this Embedder has no Reasoner; give from_pretrained(..., reasoner=...)")
        if on_bad not in ("raise", "skip"):
            raise ConfigError(f"on_bad {on_bad!r}: give raise or skip")
        one = is_one(items)
        several: list[Item] = [items] if one else list(items)
        own: list[Any] = [None] * len(several) if tcots is None else [tcots] if one else list(tcots)  # type: ignore[arg-type]
        if len(own) != len(several):
            raise ConfigError(f"{len(own)} tcots for {len(several)} items: give one for each, or None")
        writer = self.reasoner if reason or reason is None else None

        def parts() -> Iterator[list[tuple[int, Side | BadSample]]]:
            for start in range(0, len(several), self._encoder.part):
                places = range(start, min(start + self._encoder.part, len(several)))
                sides = [self._reader.read(several[i], i, instruction, own[i], on_bad) for i in places]
                if writer is not None:
                    sides = with_replies(sides, start, writer, half, other, on_bad)
                yield list(zip(places, sides, strict=True))

        with progress_bar("embed", len(several), progress) as advance:
            result = encode_parts(parts(), self._encoder, on_bad, advance)
        if not len(result.vectors):
            result.vectors = torch.zeros(0, self.dim)
        if on_bad == "skip":
            return result
        vectors = result.vectors[0] if one else result.vectors
        return vectors if as_tensor else vectors.numpy()

    def side(self, item: Item, instruction: str | None = None) -> Side:
        """What is embedded of an item: words that the model reads as marks of its own are spelled apart.

        Args:
            item: See `embedrl.api.to_side`.
            instruction: Put in front of its text.

        Raises:
            DataError: If it cannot be read.
        """
        return self._reader.side(item, instruction)

    def similarity(self, a: Array | Tensor, b: Array | Tensor) -> Array | Tensor:
        """Cosine similarities of unit vectors, `[a, b]`; of two single vectors a scalar.

        Args:
            a: Vectors `[a, dim]` or `[dim]`.
            b: Vectors `[b, dim]` or `[dim]`.
        """
        return a @ b.T

    def fit(
        self,
        pairs: Any,
        *,
        out: str | Path,
        steps: int,
        validation: Any = None,
        batch_size: int = 32,
        learning_rate: float = 1e-4,
        lora: Lora = "auto",
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
    ) -> Embedder:
        """Train on pairs, as `embedrl fit` does: the same module, data module and run folder.

        This Embedder stays as it is. What is trained is loaded from where it came from; of a run's checkpoint or a
        `Backbone` a copy is written below `out` first.

        Args:
            pairs: `(query, target)` or `(query, target, [hard negatives])`, items as `encode` takes them; `Pair`s; a
                folder or a file with a `mix.yaml`; or rows of a mix (`embedrl.data.MixRow`).
            out: Folder of the runs; each gets a folder `version_N` there.
            steps: Optimizer steps.
            validation: Pairs to score with five times in the run, or sources of tasks; None takes the
                `validation.yaml` of a mix's folder if there is one.
            batch_size: Pairs in a batch: the other targets are a query's negatives.
            learning_rate: The highest one, of AdamW.
            lora: `auto` trains adapters of a vision-language model from 100 M parameters on, and all weights of a
                smaller one; options of adapters; or None for all weights.
            seed: Seed of the run.
            options: More, as flags of `embedrl fit`: `{"model.schedule": "constant", "data.num_workers": 4}`.

        Returns:
            The trained Embedder, with this one's Reasoner.

        Raises:
            ConfigError: If an option is wrong.
            DataError: If a pair is broken.
            NonFiniteError: If the loss diverges.
        """
        ran = fit(self, pairs, Path(out), steps, validation, batch_size, learning_rate, lora, seed, options or {})
        return Embedder.from_pretrained(
            ran, reasoner=self.reasoner, device=self.device, micro_batch_size=self.micro_batch_size,
            render=self.render, num_frames=self.num_frames,
        )  # fmt: skip

    def save(self, folder: str | Path) -> None:
        """Write the folder that `embedrl export` writes.

        Args:
            folder: The folder, new or empty.

        Raises:
            ConfigError: If it holds something already.
        """
        check_new(Path(folder), "folder")
        write_export(self.backbone, Path(folder))
