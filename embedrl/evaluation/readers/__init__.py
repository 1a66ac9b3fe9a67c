"""Readers of the public layouts: a local copy of a data set as a `RetrievalTask`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from embedrl.evaluation.table import SetRow
from embedrl.types import RetrievalTask


def read_task(
    row: SetRow, root: Path, on_bad: Literal["raise", "skip"] = "raise"
) -> tuple[RetrievalTask, Mapping[str, int]]:
    """Read a data set of a benchmark from its local copy.

    Args:
        row: The data set.
        root: The folder of the benchmark's local copy.
        on_bad: `raise` stops at a row that cannot be used; `skip` leaves it out and counts it.

    Returns:
        The task, and the number of queries, candidates or judgements left out, by cause.

    Raises:
        DataError: If the data set's files are missing, no query is left, or a row cannot be used and `on_bad` is
            `raise`.
    """
    raise NotImplementedError
