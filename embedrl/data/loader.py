"""Loaders: exact resume in the middle of an epoch, and workers' errors in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader

from embedrl.data.workers import Steadfast, Workers
from embedrl.errors import EmbedRLError
from embedrl.utils.worker_errors import worker_error

T = TypeVar("T", covariant=True)


class Loader(DataLoader[T]):
    """A `DataLoader` that passes on a worker's error as the one line it was raised with.

    Its workers leave Ctrl-C and SIGTERM, which a terminal or a service sends to a whole process group, to the main
    process, which still needs their batches to stop after a whole step.
    """

    def __iter__(self) -> Iterator[T]:  # type: ignore[override]
        """Yield the batches.

        Raises:
            EmbedRLError: What a worker raised, without the worker's traceback in its message.
            WorkerError: If the workers lack shared memory or open files, end, or hang.
        """
        if self.num_workers and not isinstance(self.worker_init_fn, Steadfast):
            self.worker_init_fn = Steadfast(self.worker_init_fn)  # Lightning has put its own there, or none
        iterator: Any = None
        try:
            iterator = super().__iter__()
            yield from iterator
        except EmbedRLError as error:
            self._end(iterator)
            raise type(error)(_last_line(error)) from error
        except (RuntimeError, OSError, EOFError) as error:
            code = iterator.exit_code() if isinstance(iterator, Workers) else 0
            self._end(iterator)
            told = worker_error(error, code) if self.num_workers else None
            if told is None:
                raise
            raise told from error

    def _get_iterator(self) -> Any:
        return Workers(self) if self.num_workers else super()._get_iterator()

    def _end(self, iterator: Any) -> None:
        """End the workers of an iterator that has failed."""
        if isinstance(iterator, Workers):
            iterator.shut_down()
            self._iterator = None  # of persistent workers: another iteration starts others


def _last_line(error: EmbedRLError) -> str:
    """Torch puts `Caught ... in DataLoader worker process`, the traceback and `module.Name: ` before the message."""
    line = str(error).strip().splitlines()[-1].removeprefix("Original ")
    return line.removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")


class MapDataset(Protocol):
    """Samples by key: what `DataLoader` asks of a map-style dataset with a batch sampler."""

    def __getitem__(self, key: Any, /) -> Any:
        """The sample of a key."""
        ...


class StreamSampler(Protocol):
    """Batches of keys from one endless stream, of which an epoch is a stretch.

    Attributes:
        start: The first batch of the stream that the next iteration yields.
    """

    start: int

    def __len__(self) -> int:
        """Batches an epoch."""
        ...

    def __iter__(self) -> Iterator[list[Any]]:
        """An epoch of batches, from batch `start` of the stream on."""
        ...


class ResumableLoader(Loader[T]):
    """A loader of training batches that resumes where it stopped: an epoch is the next section of the sampler's stream.

    Its state is `{"batches_seen"}`: the number of batches ever handed to the training loop (not those that workers have
    fetched ahead). It is the same on every rank, because Lightning saves only the first rank's, and it does not rely on
    Lightning's count of epochs, which skips one when a run limited by `max_steps` resumes at the end of an epoch.

    Args:
        dataset: The samples.
        sampler: Chooses the samples of each batch.
        collate: Makes a batch of samples.
        seed: Seed of the workers' random state.
        batches_seen: Where in the stream to start.
        repeated: Only the stream's first batches, this many, over and over (`trainer.overfit_batches`); None: all.
        kwargs: Passed on to `DataLoader`.
    """

    def __init__(
        self,
        dataset: MapDataset,
        sampler: StreamSampler,
        collate: Callable[[list[Any]], T],
        seed: int,
        batches_seen: int = 0,
        repeated: int | None = None,
        **kwargs: Any,
    ) -> None:
        # A generator of its own: torch would draw the workers' seeds from the global one, which the model uses.
        generator = torch.Generator()
        super().__init__(dataset, batch_sampler=sampler, collate_fn=collate, generator=generator, **kwargs)  # type: ignore[arg-type]
        self._stream = sampler
        self._seed = seed
        self.batches_seen = batches_seen
        self.repeated = repeated

    def state_dict(self) -> dict[str, int]:
        """Number of batches handed out."""
        return {"batches_seen": self.batches_seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next iteration start behind the batches already seen."""
        self.batches_seen = state["batches_seen"]

    def __iter__(self) -> Iterator[T]:  # type: ignore[override]
        """Yield the next epoch of batches.

        Nothing happens before the first one is asked for: Lightning also calls `iter` without using the result.
        """
        start = self.batches_seen if self.repeated is None else self.batches_seen % self.repeated
        self._stream.start = start
        self.generator.manual_seed(self._seed + start)
        for batch in super().__iter__():
            self.batches_seen += 1
            yield batch
