"""Readers of the public layouts: a local copy of a data set as a `RetrievalTask`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from embedrl.errors import DataError
from embedrl.evaluation.readers import (
    beir,
    image_rows,
    moment_folders,
    moment_lists,
    uvrb,
    video_labels,
    video_options,
    video_pool,
)
from embedrl.evaluation.readers.build import TaskBuilder
from embedrl.evaluation.table import SetRow
from embedrl.types import RetrievalTask

READERS = {
    "image_rows": image_rows.read,
    "video_labels": video_labels.read,
    "video_options": video_options.read,
    "video_pool": video_pool.read,
    "moment_folders": moment_folders.read,
    "moment_lists": moment_lists.read,
    "beir": beir.read,
    "uvrb": uvrb.read,
}
"""Kind of layout, as the table names it → what reads it."""


def read_task(
    row: SetRow, root: Path, on_bad: Literal["raise", "skip"] = "raise"
) -> tuple[RetrievalTask, Mapping[str, int]]:
    """Read a data set of a benchmark from its local copy.

    The pool is the union of all rows' candidates without duplicates of a name, the first occurrence winning, and the
    corpus if there is one.

    Args:
        row: The data set.
        root: The folder of the benchmark's local copy.
        on_bad: `raise` stops at what cannot be used (a row that is unreadable, a picture that is missing, a folder
            without frames, a judgement of an unknown candidate); `skip` leaves it out and counts it. A query whose own
            candidate is left out keeps the others.

    Returns:
        The task, and the number of queries, candidates and judgements left out, by cause.

    Raises:
        DataError: If the data set's files are missing, no query is left, or something cannot be used and `on_bad` is
            `raise`.
    """
    if not Path(root).is_dir():
        raise DataError(f"{row.name}: {root} does not exist: give the folder of the local copy of {row.benchmark}")
    build = TaskBuilder(row, on_bad)
    READERS[row.reader](build, Path(root))
    return build.finish()
