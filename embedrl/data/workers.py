"""The worker processes of a loader: which signals they heed, and what they tell when the machine refuses something."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.util import Finalize
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from torch._utils import ExceptionWrapper
from torch.utils.data._utils import MP_STATUS_CHECK_INTERVAL
from torch.utils.data._utils.signal_handling import _remove_worker_pids  # type: ignore[attr-defined]
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from embedrl.errors import WorkerError
from embedrl.utils.worker_errors import IN_MAIN, NO_FILES, TOO_MANY_FILES, is_full, no_shared_memory, worker_error

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

FULL = 60.0
"""Seconds without a batch after which a full /dev/shm is taken for the cause."""

PATIENCE = 1800.0
"""Seconds without a batch after which the workers count as stuck, whatever they do."""


@dataclass(frozen=True)
class Steadfast:
    """Sets up a worker.

    It lives on when a signal reaches the whole process group, and ends when the main process has. A batch that it
    cannot hand over (no shared memory, too many open files) becomes an error of the main process; by itself, Python
    prints the cause and loses the batch, and the main process waits for ever.

    Attributes:
        then: What else to do when a worker starts.
    """

    then: Callable[[int], None] | None = None

    def __call__(self, worker: int) -> None:
        """Set up the worker.

        Args:
            worker: Its number.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _second_ends)
        Queue._on_queue_feeder_error = _send_instead  # type: ignore[attr-defined]
        sys.excepthook = _end_without_files
        if self.then is not None:
            self.then(worker)


def _second_ends(number: int, frame: FrameType | None) -> None:
    """Let pass the first SIGTERM; torch and Python send further ones to a worker that does not end by itself."""
    signal.signal(number, signal.SIG_DFL)


def _send_instead(queue: Queue[Any], error: BaseException, item: Any) -> None:
    """Send why a batch cannot be handed over, in its place; called in the thread that hands batches over."""
    if not isinstance(item, tuple) or isinstance(item[1], ExceptionWrapper):
        os._exit(1)  # not even a text goes through
    told = worker_error(error) or error
    sys.stderr = io.StringIO()  # said once: without files, Python fails again and again when the worker ends
    wrapped = ExceptionWrapper((type(told), told, told.__traceback__), "in a data worker")  # type: ignore[no-untyped-call]
    queue.put((item[0], wrapped))


def _end_without_files(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End the worker when the thread that hands out files cannot: the main process would wait for it for ever."""
    if isinstance(error, OSError) and error.errno in TOO_MANY_FILES:
        os._exit(NO_FILES)
    sys.__excepthook__(kind, error, trace)


class Workers(_MultiProcessingDataLoaderIter):
    """Torch's iterator over the batches of workers, which also notices those that hang.

    Args:
        loader: The loader.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._waited = 0.0
        try:
            super().__init__(loader)
        except BaseException:
            self._shutdown = True  # half-made: torch could not end it
            for worker in getattr(self, "_workers", []):
                worker.kill()
                worker.join()
            raise
        # Python ends workers at exit by one SIGTERM, which they let pass, and then waits for them.
        Finalize(self, _kill, (id(self), self._workers), exitpriority=100)

    def _try_get_data(self, timeout: float = MP_STATUS_CHECK_INTERVAL) -> tuple[bool, Any]:
        """Wait for a batch.

        Raises:
            WorkerError: If none has come for long.
        """
        got, data = super()._try_get_data(timeout)  # type: ignore[no-untyped-call]
        self._waited = 0.0 if got else self._waited + timeout
        if self._waited >= FULL and is_full():
            raise no_shared_memory()
        if self._waited >= PATIENCE:
            raise WorkerError(
                f"no batch for {PATIENCE / 60:.0f} minutes: a data worker hangs; see whether the disk of the data "
                f"answers, or {IN_MAIN}"
            )
        return got, data

    def shut_down(self) -> None:
        """End the workers now, not when Python forgets this iterator; that one of them fails is known."""
        if self._worker_pids_set:
            _remove_worker_pids(id(self))
            self._worker_pids_set = False
        self._shutdown_workers()
        _kill(id(self), self._workers)  # those that hang

    def exit_code(self) -> int:
        """The exit code of a worker that has ended by itself, minus the signal if one ended it; 0 if none has."""
        return next((worker.exitcode for worker in self._workers if worker.exitcode), 0)


def _kill(iterator: int, workers: list[Any]) -> None:
    """Kill the workers that are still there."""
    alive = [worker for worker in workers if worker.is_alive()]
    if alive:
        with suppress(ValueError):  # torch has forgotten them
            _remove_worker_pids(iterator)
        for worker in alive:
            worker.kill()
