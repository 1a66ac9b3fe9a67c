"""The contract between a model family and everything that trains, scores, exports or searches with it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from embedrl.data.inputs import GroupPreprocessor, ModelInputs, Preprocessor
from embedrl.distributed.loadable import Loadable
from embedrl.models.routing import Routing

__all__ = ["Backbone", "GroupPreprocessor", "ModelInputs", "Preprocessor"]


class Backbone(Loadable):
    """A model that embeds: see `Loadable` for how it is built, sharded and exported."""

    forward_methods: tuple[str, ...] = ("encode",)
    multi_vector: bool = False
    """Whether a side has a vector for each token: `encode` returns `[batch, tokens, dim]` (`LateInteraction`)."""
    trained_dims: Sequence[int] = ()
    """The shorter lengths of vectors that its training asks for (`embedrl.losses.Matryoshka`), where that is known."""

    @property
    def shares_prefix(self) -> bool:
        """Whether chats that begin alike can be embedded with their beginning computed once.

        If so, `preprocessor()` is a `GroupPreprocessor`, and `encode` takes the micro-batches that its `groups` makes
        and returns a vector for each of their chats. The vectors equal those of the chats embedded one by one.
        """
        return False

    @property
    def routing(self) -> Routing | None:
        """What the routers of its experts tell (`lora.experts`); None if there are none to train."""
        return None

    @abstractmethod
    def preprocessor(self) -> Preprocessor:
        """The preprocessor that fits this model; needs no weights."""

    @abstractmethod
    def encode(self, inputs: ModelInputs) -> Tensor:
        """Embed one micro-batch.

        Args:
            inputs: What `preprocessor()` returned, moved to the model's device.

        Returns:
            Unit vectors, float32, `[batch, dim]`; if `multi_vector`, `[batch, tokens, dim]`, padded with zeros.
        """

    def cache_vision_features(self, seen: list[Any]) -> AbstractContextManager[None]:
        """While open, `encode` may store the outputs of frozen parts in `seen`, or reuse those that it holds.

        Args:
            seen: The cache of one micro-batch: empty at first, filled by its first pass.
        """
        return nullcontext()

    def forward(self, inputs: ModelInputs) -> Tensor:
        """Same as `encode`, so that wrappers with hooks on `forward` (FSDP, DDP) work."""
        return self.encode(inputs)
