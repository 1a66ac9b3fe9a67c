"""Reading a data set of a benchmark: the reader of its layout, and the missing files of the local copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from embedrl.data.on_bad import OnBad, OnBadMode
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
from embedrl.evaluation.readers.files import required_paths
from embedrl.evaluation.table import SetRow
from embedrl.types import RetrievalTask
from embedrl.utils.input_files import visible


class Reader(NamedTuple):
    """The reader of one kind of layout.

    Attributes:
        read: Reads a data set.
        required_paths: The files and folders that reading needs.
    """

    read: Callable[[TaskBuilder, Path], None]
    required_paths: Callable[[SetRow, Path], list[Path]] = required_paths


READERS = {
    "image_rows": Reader(image_rows.read),
    "video_labels": Reader(video_labels.read),
    "video_options": Reader(video_options.read),
    "video_pool": Reader(video_pool.read),
    "moment_folders": Reader(moment_folders.read),
    "moment_lists": Reader(moment_lists.read),
    "beir": Reader(beir.read, beir.required_paths),
    "uvrb": Reader(uvrb.read, uvrb.required_paths),
}
"""Kind of layout, as the table names it → its reader."""


def read_task(
    row: SetRow, root: Path, on_bad: OnBadMode = "raise", bad: OnBad | None = None
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
        bad: Where what is left out is counted over the whole run and named, up to its limit.

    Returns:
        The task, and the number of queries, candidates and judgements left out, by cause.

    Raises:
        DataError: If the data set's files are missing, no query is left, or something cannot be used and `on_bad` is
            `raise`.
    """
    if not Path(root).is_dir():
        raise DataError(f"{row.name}: {root} does not exist: give the folder of the local copy of {row.benchmark}")
    build = TaskBuilder(row, on_bad, bad)
    READERS[row.reader].read(build, Path(root))
    return build.finish()


def missing_files(row: SetRow, root: Path) -> list[str]:
    """The files of a data set that the local copy lacks, without reading any: the rows' files, and folders of pictures.

    Single pictures are checked when their rows are read.

    Args:
        row: The data set.
        root: The folder of the benchmark's local copy.

    Returns:
        The files that do not exist, and the folders that do not or are empty, below the root; none if all is there.
    """
    places = READERS[row.reader].required_paths(row, root)
    absent = [path for path in places if not (path.is_file() or (path.is_dir() and visible(path)))]
    return [path.relative_to(root).as_posix() for path in absent]
