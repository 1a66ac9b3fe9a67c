"""The errors a user can meet. Each message names the place (file, sample or flag) and the cure."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


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


@contextmanager
def unreadable(what: str, cure: str = "", kind: type[EmbedRLError] = DataError) -> Iterator[None]:
    """Whatever a library raises over the content of a file becomes one error of ours: they raise nearly anything.

    Args:
        what: What cannot be read, with its path.
        cure: What to do about it.
        kind: Class of the error.

    Raises:
        EmbedRLError: `what (what the library says): cure`, of that class.

    >>> with unreadable("a.json: broken", "delete it"):
    ...     {}["starts"]
    Traceback (most recent call last):
    embedrl.errors.DataError: a.json: broken (KeyError: 'starts'): delete it
    """
    try:
        yield
    except EmbedRLError:
        raise
    except Exception as error:
        raise kind(f"{what} ({said(error)}){': ' * bool(cure)}{cure}") from error


def said(error: BaseException) -> str:
    """What an exception says, in one short line.

    >>> said(ValueError("not JSON")), said(KeyError("starts")), said(EOFError())
    ('not JSON', "KeyError: 'starts'", 'EOFError')
    """
    name, text = type(error).__name__, " ".join(str(error).split())
    if not text:
        return name
    is_plain = isinstance(error, OSError | ValueError | RuntimeError) and " " in text
    return (text if is_plain else f"{name}: {text}")[:300]


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
    room = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    cure = "make room on that disk" if room else "mend that, or give another place"
    return StorageError(f"{error.filename or 'a file'}: {error.strerror}: {cure}, then start again")
