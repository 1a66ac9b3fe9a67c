"""Loaders: exact resume in the middle of an epoch, and workers' errors in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader

from embedrl.data.dataset import PairDataset
from embedrl.data.sampler import SubBatchSampler
from embedrl.errors import EmbedRLError

T = TypeVar("T", covariant=True)


class Loader(DataLoader[T]):
    """A `DataLoader` that passes on a worker's error as the one line it was raised with."""

    def __iter__(self) -> Iterator[T]:  # type: ignore[override]
        """Yield the batches.

        Raises:
            EmbedRLError: What a worker raised, without the worker's traceback in its message.
        """
        try:
            yield from super().__iter__()
        except EmbedRLError as error:
            raise type(error)(_last_line(error)) from error


def _last_line(error: EmbedRLError) -> str:
    """Torch puts `Caught ... in DataLoader worker process`, the traceback and `module.Name: ` before the message."""
    line = str(error).strip().splitlines()[-1]
    return line.removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")


class ResumableLoader(Loader[T]):
    """A loader of training batches whose position is saved with Lightning's checkpoints.

    The state is `{"epoch", "batches_seen"}`, counting the batches handed to the training loop (not those that workers
    have fetched ahead): the same on every rank, because Lightning saves only the first rank's.

    Args:
        dataset: The rendered pairs.
        sampler: Chooses the rows. Lightning tells it the epoch.
        collate: Makes a batch of examples.
        seed: Seed of the workers' random state.
        kwargs: Passed on to `DataLoader`.
    """

    def __init__(
        self,
        dataset: PairDataset,
        sampler: SubBatchSampler,
        collate: Callable[[list[Any]], T],
        seed: int,
        **kwargs: Any,
    ) -> None:
        # A generator of its own: torch would draw the workers' seeds from the global one, which the model uses.
        generator = torch.Generator()
        super().__init__(dataset, batch_sampler=sampler, collate_fn=collate, generator=generator, **kwargs)  # type: ignore[arg-type]
        self._sub_batches = sampler
        self._seed = seed
        self._seen = 0
        self._resume: tuple[int, int] | None = None

    def state_dict(self) -> dict[str, int]:
        """Epoch and number of its batches handed out."""
        return {"epoch": self._sub_batches.epoch, "batches_seen": self._seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next iteration of that epoch start behind the batches already seen; other epochs start at 0."""
        self._resume = state["epoch"], state["batches_seen"]

    def __iter__(self) -> Iterator[T]:  # type: ignore[override]
        """Yield the rest of the epoch.

        Nothing happens before the first batch is asked for: Lightning calls `iter` before it sets the epoch.
        """
        epoch = self._sub_batches.epoch
        self._seen = self._resume[1] if self._resume is not None and self._resume[0] == epoch else 0
        self._resume = None
        self._sub_batches.start = self._seen
        self.generator.manual_seed(self._seed + epoch)
        for batch in super().__iter__():
            self._seen += 1
            yield batch
