"""Files that are whole or not there."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, sync: bool = False, shared: bool = False) -> Iterator[Path]:
    """A file beside `path` to write to, renamed to `path` at the end: a killed run leaves the old one, not half of one.

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
