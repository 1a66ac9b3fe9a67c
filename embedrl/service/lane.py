"""One model, many requests: they wait in a bounded queue and go through the model together, in one thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Work = TypeVar("Work")
Result = TypeVar("Result")


class BusyError(Exception):
    """The queue is full."""


@dataclass
class _Waiting(Generic[Work, Result]):
    """A request that waits.

    Attributes:
        kind: Only jobs of one kind go through the model together.
        work: Its items.
        result: What it waits for.
    """

    kind: Any
    work: Sequence[Work]
    result: asyncio.Future[list[Result]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Lane(Generic[Work, Result]):
    """Puts the items of concurrent requests into batches for one thread.

    Args:
        run: The model: (kind, items) → one result an item, in order. It runs in one thread of its own.
        queue: Requests that may wait.
        batch: Items that go through the model together; a request with more is a batch of its own.

    Attributes:
        batches: Sizes of the batches so far, by number of items.
    """

    def __init__(self, run: Callable[[Any, list[Work]], Sequence[Result]], queue: int, batch: int) -> None:
        self._run, self._size, self._batch = run, queue, batch
        self._jobs: asyncio.Queue[_Waiting[Work, Result] | None] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "embedrl-lane")
        self._task: asyncio.Task[None] | None = None
        self._held: _Waiting[Work, Result] | None = None

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._jobs.qsize()

    def start(self) -> None:
        """Start working; in a running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """Finish what waits, then stop."""
        self._jobs.put_nowait(None)
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    async def submit(self, kind: Any, work: Sequence[Work]) -> list[Result]:
        """The results of a request's items.

        Args:
            kind: Requests of one kind may share a batch.
            work: The items, at least one.

        Raises:
            BusyError: If too many requests wait already.
        """
        if self.waiting >= self._size:
            raise BusyError
        job: _Waiting[Work, Result] = _Waiting(kind, work)
        self._jobs.put_nowait(job)
        return await job.result

    async def _work(self) -> None:
        while (first := await self._next()) is not None:
            jobs = self._gather(first)
            jobs = [job for job in jobs if not job.result.cancelled()]  # nobody waits for it any more
            if not jobs:
                continue
            items = [item for job in jobs for item in job.work]
            loop = asyncio.get_running_loop()
            try:
                results = list(await loop.run_in_executor(self._thread, self._run, first.kind, items))
            except Exception as error:  # noqa: BLE001 - whoever waits for the result gets it
                for job in jobs:
                    if not job.result.done():
                        job.result.set_exception(error)
                continue
            start = 0
            for job in jobs:
                if not job.result.done():
                    job.result.set_result(results[start : start + len(job.work)])
                start += len(job.work)

    async def _next(self) -> _Waiting[Work, Result] | None:
        held, self._held = self._held, None
        return held if held is not None else await self._jobs.get()

    def _gather(self, first: _Waiting[Work, Result]) -> list[_Waiting[Work, Result]]:
        """The first job and those behind it that fit into its batch; nothing is waited for."""
        jobs, size = [first], len(first.work)
        while not self._jobs.empty():
            job = self._jobs.get_nowait()
            if job is None:
                self._jobs.put_nowait(None)
                break
            if job.kind != first.kind or size + len(job.work) > self._batch:
                self._held = job
                break
            jobs.append(job)
            size += len(job.work)
        return jobs
