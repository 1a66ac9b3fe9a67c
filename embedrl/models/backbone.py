"""The contract between a model family and everything that trains, scores, exports or searches with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from embedrl.data.inputs import GroupPreprocessor, ModelInputs, Preprocessor

__all__ = ["Backbone", "GroupPreprocessor", "ModelInputs", "Preprocessor"]


class Backbone(nn.Module, ABC):
    """A model that embeds. Constructing one is cheap; `build` loads the weights.

    A subclass takes plain values in `__init__` (they come from YAML), stores them, and creates modules in `build`,
    which the LightningModule calls in `configure_model`. `build` must do nothing when called again.
    """

    forward_methods: tuple[str, ...] = ("encode",)
    """What runs the network besides `forward`: FSDP2 must know of it (`register_fsdp_forward_method`)."""

    @property
    def shares_prefix(self) -> bool:
        """Whether chats that begin alike can be embedded with their beginning computed once.

        If so, `preprocessor()` is a `GroupPreprocessor`, and `encode` takes the micro-batches that its `groups` makes
        and returns a vector for each of their chats. The vectors are those that the chats have one by one.
        """
        return False

    @abstractmethod
    def build(self) -> None:
        """Create the modules, load weights, add LoRA, freeze what is frozen."""

    def build_on_meta(self) -> None:
        """Create the modules that `build` creates, on the meta device: this process gets the weights from another one.

        They must have the names, shapes and frozen parts of `build`'s. Does nothing when called again. By default it is
        `build` itself, whose tensors are meant for the meta device then; where that reads the weights, leave them out.
        """
        with torch.device("meta"):
            self.build()

    @abstractmethod
    def preprocessor(self) -> Preprocessor:
        """The preprocessor that fits this model; needs no weights."""

    @abstractmethod
    def encode(self, inputs: ModelInputs) -> Tensor:
        """Embed one micro-batch.

        Args:
            inputs: What `preprocessor()` returned, moved to the model's device.

        Returns:
            Unit vectors, float32, shape `[batch, dim]`.
        """

    def look_once(self, seen: list[Any]) -> AbstractContextManager[None]:
        """While open, `encode` may leave what a frozen part makes of a micro-batch in `seen`, and take it from there.

        Args:
            seen: One list for each micro-batch, empty at first and filled by its first pass.
        """
        return nullcontext()

    def forward(self, inputs: ModelInputs) -> Tensor:
        """Same as `encode`, so that wrappers with hooks on `forward` (FSDP, DDP) work."""
        return self.encode(inputs)

    def shard_units(self) -> list[nn.Module]:
        """The modules to shard and checkpoint one by one under FSDP2, inner ones first."""
        return []

    @abstractmethod
    def export(self, out: Path, merge: bool = True) -> None:
        """Write a checkpoint that other libraries load.

        Args:
            out: The folder to write.
            merge: True folds LoRA into the weights; False writes the adapter alone.
        """
