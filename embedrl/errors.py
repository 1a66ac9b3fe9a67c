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
    """A file, a row or a sample is broken. The message names the file or `dataset/id`.

    Args:
        message: What is wrong, where, and the cure.
        cause: The kind of fault, one word for a table of counts; empty means that of the error it is raised from.
    """

    kind = "broken_row"
    """The cause if nobody names one."""

    def __init__(self, message: str = "", cause: str = "") -> None:
        super().__init__(message)
        self._cause = cause

    @property
    def cause(self) -> str:
        """The kind of fault: skipped samples are counted by it."""
        inner = self.__cause__
        return self._cause or (inner.cause if isinstance(inner, DataError) else self.kind)


class TooLongError(DataError):
    """A sample is longer than the model reads. The message names the sample and the limit."""

    kind = "too_long"


class PictureError(DataError):
    """A picture cannot be opened or decoded. The message names its file."""

    kind = "broken_picture"


class MissingFileError(DataError):
    """A file or a folder that a row names is not there. The message names it."""

    kind = "missing_file"


class ThinPictureError(DataError):
    """A picture is too long for its width. The message names it, or the sample, and its size."""

    kind = "thin_picture"


class TCoTError(DataError):
    """A T-CoT is missing or breaks the format. The message says how."""

    kind = "bad_tcot"


class TooManyBadError(EmbedRLError):
    """More samples are bad than a run may leave out. The message counts them and names the flag."""


CAUSES = ("broken_row", "missing_file", "broken_picture", "thin_picture", "too_long", "bad_tcot")
"""The kinds of faults for which training skips samples."""


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


OVERLOADED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)
"""What keeps the machine from reading any file, good or bad."""


def overload_error(error: BaseException, what: str) -> StorageError | None:
    """An error of ours for a machine that cannot read files now, which says nothing about the file; None for another.

    Args:
        error: What was raised.
        what: What was being read.
    """
    if not isinstance(error, OSError) or error.errno not in OVERLOADED:
        return None
    open_files = error.errno in (errno.EMFILE, errno.ENFILE)
    cure = "raise `ulimit -n`" if open_files else "look after the machine"
    return StorageError(f"cannot read {what} ({error.strerror}): {cure}, then start again")


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
