"""From chats to the inputs of a model: the contract of every backbone's preprocessor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from embedrl.types import Chat, Lesson

ModelInputs = dict[str, Tensor]
"""A processor's output for one micro-batch; only the backbone that made it knows its content.

Packed pixels have no batch dimension, so it must not be sliced: a batch is a list of these.
"""


class Preprocessor(Protocol):
    """Turns chats into model inputs. Picklable and free of weights: it runs in loader workers."""

    def __call__(self, chats: Sequence[Chat]) -> ModelInputs:
        """Process one micro-batch, one chat (one side) a row.

        Raises:
            DataError: If a chat cannot be represented (too long, no content, a placeholder inside a text).
        """
        ...

    def length(self, chat: Chat) -> int:
        """A cheap estimate of the chat's length in tokens, for grouping chats of like length."""
        ...


class GroupPreprocessor(Preprocessor, Protocol):
    """A preprocessor for a backbone with `shares_prefix`."""

    def groups(self, groups: Sequence[Sequence[Chat]], max_chats: int) -> tuple[Iterable[ModelInputs], Tensor]:
        """Process groups of chats that begin alike, such as the rollouts of one side.

        Args:
            groups: The groups, none of them empty.
            max_chats: At most this many chats in a micro-batch.

        Returns:
            Micro-batches that `Backbone.encode` takes, best made when they are asked for, and `order` `[chats]`: row
            `i` of the concatenated vectors is that of chat `order[i]`, the chats being counted group by group.

        Raises:
            DataError: If a chat cannot be represented.
        """
        ...


@runtime_checkable
class BundlePreprocessor(GroupPreprocessor, Protocol):
    """A preprocessor of groups whose chats may share more with one another than the group does."""

    def bundles(
        self, groups: Sequence[Sequence[Sequence[Chat]]], max_chats: int
    ) -> tuple[Iterable[ModelInputs], Tensor]:
        """As `groups`, of bundles of chats, each computed as a tree: `[what all share, branch, branch, ...]`.

        Args:
            groups: The groups of bundles, none of them empty.
            max_chats: At most this many chats in a micro-batch; a larger bundle is one of its own.
        """
        ...


class GeneratorPreprocessor(Protocol):
    """Turns prompts and lessons into model inputs. Picklable and free of weights: it runs in loader workers."""

    def prompts(self, chats: Sequence[Chat]) -> ModelInputs:
        """Process prompts for generation, padded on the left."""
        ...

    def lessons(self, lessons: Sequence[Lesson]) -> ModelInputs:
        """Process lessons for training, with `labels` on the reply alone."""
        ...

    def length(self, chat: Chat) -> int:
        """A cheap estimate of the chat's length in tokens, for grouping chats of like length."""
        ...
