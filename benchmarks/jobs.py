"""A benchmark's runs, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any


def run_jobs(run: Callable[..., object], jobs: Sequence[tuple[Any, ...]], processes: int) -> None:
    """Run a function once for each job, in their order.

    Args:
        run: The function; with several processes one that can be pickled.
        jobs: Its arguments, job by job.
        processes: How many run at a time; of 1 in this process.
    """
    if min(processes, len(jobs)) <= 1:
        for job in jobs:
            run(*job)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(run, *job) for job in jobs]:
            done.result()
