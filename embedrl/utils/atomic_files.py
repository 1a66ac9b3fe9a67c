"""Files and folders that are whole or not there."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedrl.errors import CheckpointError, ConfigError, StorageError

PART = ".part"


@contextmanager
def replacing(path: Path, sync: bool = False, shared: bool = False) -> Iterator[Path]:
    """A file beside `path` to write to, renamed to `path` at the end: a killed run leaves the old file, not a part.

    When the block fails, the file beside it is deleted and `path` stays as it was.

    Args:
        path: The file to write or to replace.
        sync: Whether the content is on the disk before the rename, so that a power cut leaves no half file either.
        shared: Whether several processes, on one machine or more, may write it at once; the last one counts.

    >>> import tempfile
    >>> scores = Path(tempfile.mkdtemp(), "scores.json")
    >>> with replacing(scores) as part:
    ...     _ = part.write_text("{}")
    >>> scores.read_text()
    '{}'
    """
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part" if shared else f"{path.name}.part")
    try:
        yield part
        if sync:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:  # `write` does not say where
        error.filename = error.filename or str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write to, renamed to `path` at the end: a killed run leaves `<name>.part`, and no half.

    When the block fails, that folder is deleted and `path` stays as it was. What was in `path` is gone in the end.

    Args:
        path: The folder to write or to replace.

    Raises:
        ConfigError: If another process writes it, or it is no folder that can be replaced.
        StorageError: If the disk refuses.
    """
    path = Path(os.path.realpath(path))
    if path.is_mount():
        raise ConfigError(f"{path}: a disk's own folder cannot be replaced; give one inside it")
    part = path.with_name(f"{path.name}{PART}")
    part.mkdir(parents=True, exist_ok=True)
    lock = os.open(part, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{path}: another process writes it: wait for it, or give another folder") from error
        except OSError as error:  # network file systems lock no folders
            if error.errno not in (errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
                raise
        _empty(part)
        try:
            yield part
            _put(part, path)
        except BaseException as error:
            shutil.rmtree(part, ignore_errors=True)
            if type(error).__name__ == "SafetensorError":
                raise StorageError(f"{path}: cannot be written ({error}): make room on that disk") from error
            if isinstance(error, OSError):
                error.filename = error.filename or str(path)
            raise
    finally:
        os.close(lock)


def check_whole(path: str | Path) -> None:
    """Refuse what a killed run left of a folder.

    Raises:
        CheckpointError: If it is such a folder.
    """
    if Path(path).name.endswith(PART):
        raise CheckpointError(f"{path}: half a folder, left by an export that was stopped: export it again")


def _put(part: Path, path: Path) -> None:
    """Rename `part` to `path`; killed in between, a run leaves what was there as `<name>.old`."""
    for file in part.rglob("*"):
        if file.is_file():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
    aside = path.with_name(f"{path.name}.old")
    if path.is_dir() and any(path.iterdir()):
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    part.rename(path)  # also over an empty folder
    shutil.rmtree(aside, ignore_errors=True)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
