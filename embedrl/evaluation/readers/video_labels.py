"""Video classification: a video's frames against labels."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from functools import cache, partial
from pathlib import Path

import yaml

from embedrl.evaluation.readers.build import TaskBuilder, UnusableError
from embedrl.evaluation.readers.files import frames, read_rows
from embedrl.evaluation.table import read_data
from embedrl.types import Side


def read(build: TaskBuilder, root: Path) -> None:
    """Read rows of `video_id`, `pos_text` and, where each row has its own labels, `neg_text[]`.

    A set that is ranked globally is ranked against its full list of labels (`data/video_labels.yaml`), not only those
    that its rows happen to hold, and not more: a row with another label is unusable.

    Args:
        build: Takes the queries and candidates.
        root: The root of the local copy.

    Raises:
        DataError: As `read_task`.
    """
    local = build.row.ranking == "local"
    known = () if local else labels_of(build.row.name)
    for index, row in enumerate(read_rows(root / build.row.paths["rows"])):
        with build.unless_bad(row.where):
            video = Side(
                build.row.instruction.strip(), frames=frames(root, build.row.paths["frames"], row.name("video_id"))
            )
            label = row.text("pos_text")
            if not local:
                _check(label, known, build.row.name)
            labels = row.texts("neg_text") if local else []
            pool = labels if label in labels else [label, *labels]
            for text in pool:
                build.candidate(text, partial(Side, text))
            build.query(str(index), video, {label: 1.0}, pool)
    if not local:
        for text in known:
            build.candidate(text, partial(Side, text))


def _check(label: str, known: Collection[str], name: str) -> None:
    """Refuse a label that the set does not have: it would be one more candidate of every query."""
    if label not in known:
        close = difflib.get_close_matches(label, known, n=1)
        cure = f"did you mean {close[0]}?" if close else "correct the row"
        raise UnusableError(
            "unknown label", f"'pos_text' is {label!r:.60}, none of {name}'s {len(known)} labels; {cure}"
        )


def labels_of(name: str) -> list[str]:
    """All labels of a data set that is ranked globally."""
    return list(_labels()[name])


@cache
def _labels() -> dict[str, list[str]]:
    return {name: text.split() for name, text in yaml.safe_load(read_data("video_labels.yaml")).items()}
