"""What torch's loader and Python's pipes raise when data workers lack something, in one line with the cure."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
from contextlib import suppress

from embedrl.errors import WorkerError

SHARED = "/dev/shm"
"""Where batches of workers lie until the main process has read them."""

IN_MAIN = "load in the training process (--data.num_workers 0; of eval --encode.num_workers 0)"
NO_FILES = 71
"""Exit code of a worker that has too many files open; EX_OSERR of sysexits.h."""

TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)

_FILES = re.compile(rf"Too many open files|items of ancdata|exit code {NO_FILES}\b")
_MEMORY = re.compile(r"shared memory(\(shm\)| object)|out of shared memory|signal: Bus error|</torch_\d+_")
_ENDED = re.compile(r"DataLoader worker \(pid\(?s?\)? [\d, ]+\) (.*)")


def worker_error(error: BaseException | None, code: int = 0, of_loader: bool = True) -> WorkerError | None:
    """An error of ours for one that says that data workers lack something, or have ended; None for any other.

    Args:
        error: What was raised.
        code: The exit code of a worker that has ended, minus the signal if one ended it; 0 if none is known.
        of_loader: Whether it comes from a loader. From elsewhere, only the error that torch raises wherever the main
            process happens to be when a worker has ended is taken for one.
    """
    if not isinstance(error, RuntimeError | OSError | EOFError):
        return None
    text, ended = str(error), _ENDED.match(str(error))
    if not of_loader and ended is None:
        return None
    number = error.errno if isinstance(error, OSError) else None
    if number in TOO_MANY_FILES or _FILES.search(text) or code == NO_FILES:
        return no_files()
    if number == errno.ENOSPC or _MEMORY.search(text) or code == -signal.SIGBUS:
        return no_shared_memory()
    if (ended and "signal: Killed" in text) or code == -signal.SIGKILL:
        return WorkerError(
            "a data worker was killed, often because the machine ran out of memory: take fewer workers or smaller "
            f"batches, or {IN_MAIN}"
        )
    if ended is None and not code:
        return None
    how = ended[1].partition(". ")[0] if ended else f"ended with exit code {code}"
    return WorkerError(f"a data worker {how}: see above, or {IN_MAIN}")


def no_files() -> WorkerError:
    """The error of workers that may not open more files."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return WorkerError(
        f"the data workers need more open files than the limit of {limit} allows: raise it (`ulimit -n 4096`), "
        f"or {IN_MAIN}"
    )


def no_shared_memory() -> WorkerError:
    """The error of workers without shared memory."""
    size = ""
    with suppress(OSError):
        stat = os.statvfs(SHARED)
        size = f" ({SHARED} has {stat.f_blocks * stat.f_frsize / 2**20:,.2f} MiB)"
    return WorkerError(
        f"the data workers have no shared memory left{size}: give more (`docker run --shm-size 8g`), or {IN_MAIN}"
    )


def is_full() -> bool:
    """Whether shared memory is used up, but for a hundredth."""
    with suppress(OSError):
        stat = os.statvfs(SHARED)
        return stat.f_blocks > 0 and stat.f_bavail * 100 <= stat.f_blocks
    return False
