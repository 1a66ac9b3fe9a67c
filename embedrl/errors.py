"""The errors a user can meet. Each message names the place (file, sample or flag) and the cure."""

from __future__ import annotations

import errno


class EmbedRLError(Exception):
    """Base of every error that embedrl raises on purpose; the command line prints it in one line."""


class ConfigError(EmbedRLError):
    """A flag or a YAML value is wrong. The message names the flag."""


class DataError(EmbedRLError):
    """A file, a row or a sample is broken. The message names the file or `dataset/id`."""


class TooLongError(DataError):
    """A sample is longer than the model reads. The message names the sample and the limit."""


class StorageError(EmbedRLError):
    """A disk refuses what must be kept. The message names the file; nothing goes on without it."""


class CheckpointError(EmbedRLError):
    """A checkpoint is missing, unreadable or does not fit. The message names the path and the keys."""


class NonFiniteError(EmbedRLError):
    """A loss, gradient or vector is NaN or infinite. The message names the step or the samples."""


class WorkerError(EmbedRLError):
    """A data worker has ended, hangs, or lacks shared memory or open files. The message names what, and the cure."""


class RewardError(EmbedRLError):
    """A reward cannot be computed. The message names the reward (or the endpoint it asks), the causes and the cure."""


class EndpointError(EmbedRLError):
    """A model behind an endpoint does not answer properly. The message names the endpoint, the cause and the cure."""


def listed(names: list[str]) -> str:
    """The first few of many names, for a message.

    >>> listed(list("abcdefg"))
    'a, b, c, d, e and 2 more'
    """
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENAMETOOLONG,
    errno.EMFILE, errno.ENFILE,
)  # fmt: skip
"""What an operating system refuses for reasons of its own: no bug, and no fault of the data."""


def disk_error(error: OSError) -> StorageError | None:
    """An error of ours for a disk that refuses; None if it is something else.

    Args:
        error: What was raised.
    """
    if error.errno not in DISK:
        return None
    if error.errno in (errno.EMFILE, errno.ENFILE):
        cure = "raise the limit (`ulimit -n 4096`)"
    else:
        room = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        cure = "make room on that disk" if room else "mend that, or give another place"
    return StorageError(f"{error.filename or 'a file'}: {error.strerror}: {cure}, then start again")
