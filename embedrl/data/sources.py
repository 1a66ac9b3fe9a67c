"""The protocols of data sets: pairs to train on, or retrieval tasks to score with.

Both are protocols: a YAML file can name any class with these methods and annotations as `class_path`.
"""

from __future__ import annotations

from typing import Protocol

from embedrl.types import Modality, Pair, RetrievalTask


class PairSource(Protocol):
    """A data set of pairs with random access. Picklable: loader workers hold a copy.

    `__getitem__` stays cheap (pictures are opened when they are rendered) and is a pure function of the index, so that
    a resumed run sees the same rows.
    """

    @property
    def name(self) -> str:
        """Name of the data set: shown in errors and logs, unique within a mix."""
        ...

    @property
    def modality(self) -> Modality:
        """Modality of the pairs' visual part: `video` sources count against `max_video_sub_batches`."""
        ...

    def __len__(self) -> int:
        """Number of pairs."""
        ...

    def __getitem__(self, index: int) -> Pair:
        """The pair at a row, `0 <= index < len(self)`.

        Raises:
            DataError: If the row is broken; the message names `dataset/id`.
        """
        ...


class TaskSource(Protocol):
    """Something that yields retrieval tasks: a benchmark, or the held-out split of a data set."""

    def tasks(self) -> list[RetrievalTask]:
        """The tasks, in a fixed order and with unique names.

        Raises:
            DataError: If a task's files are missing or broken.
        """
        ...
