"""Pairs that a program holds, written down so that a configuration can name them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from embedrl.api.items import to_side
from embedrl.construction.rows import PairWriter, write_mix
from embedrl.data.images import ImageFile
from embedrl.data.video import NUM_FRAMES
from embedrl.errors import DataError
from embedrl.types import Modality, Pair


class GivenPairs:
    """Pairs in memory. Implements `PairSource`.

    Args:
        name: Name of the data set.
        pairs: The pairs, at least one.

    Attributes:
        root: The folder above all their pictures, if each is a file; else None.
    """

    def __init__(self, name: str, pairs: Sequence[Pair]) -> None:
        self.name, self._pairs = name, pairs
        sides = [side for pair in pairs for side in (pair.query, pair.target, *pair.negatives)]
        self.modality = max((side.modality for side in sides), key=list(Modality).index)
        sources = [source for side in sides for source in (*side.images, *side.frames)]
        files = [os.path.abspath(s.path) for s in sources if isinstance(s, ImageFile)]  # noqa: PTH100  # keeps links
        whole = bool(files) and len(files) == len(sources)
        self.root = os.path.commonpath([str(Path(file).parent) for file in files]) if whole else None

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self._pairs)

    def __getitem__(self, index: int) -> Pair:
        """The pair of a position."""
        return self._pairs[index]


def read_pairs(pairs: Iterable[Any], num_frames: int = NUM_FRAMES) -> list[Pair]:
    """Items by two as pairs.

    Args:
        pairs: `(query, target)`, `(query, target, [hard negatives])`, or `Pair`; the items as `to_side` takes them.
        num_frames: Frames sampled from a video's file or folder.

    Raises:
        DataError: If there is none, or one is broken; the message names its position.
    """
    made = []
    for number, pair in enumerate(pairs):
        if isinstance(pair, Pair):
            made.append(pair)
            continue
        if not isinstance(pair, tuple | list) or len(pair) not in (2, 3):
            raise DataError(f"pair {number} is {pair!r:.60}: give (query, target) or (query, target, [negatives])")
        try:
            sides = [to_side(item, num_frames) for item in (pair[0], pair[1], *(pair[2] if len(pair) == 3 else ()))]
        except DataError as error:
            raise DataError(f"pair {number}: {error}") from error
        made.append(Pair(sides[0], sides[1], "pairs", str(number), tuple(sides[2:])))
    if not made:
        raise DataError("no pairs: give at least one (query, target)")
    return made


def write_pairs(pairs: Sequence[Pair], name: str, folder: Path) -> list[dict[str, Any]]:
    """Write pairs, and their pictures unless each is a file, into a folder of their own.

    Args:
        pairs: The pairs.
        name: Name of the data set.
        folder: The folder above it. The same pairs are written once.

    Returns:
        A mix of one row, in the form of a configuration.

    Raises:
        DataError: If a picture that must be saved is broken.
    """
    digest = hashlib.sha256()
    for pair in pairs:
        for side in (pair.query, pair.target, *pair.negatives):
            digest.update(f"{side.key}{side.tcot}\0".encode())
    place = folder / f"{name}_{digest.hexdigest()[:12]}"
    writer = PairWriter(place, name, GivenPairs(name, pairs), 1.0)
    for pair in pairs:
        writer.write(pair)
    row = writer.close()
    assert row is not None  # there is a pair
    write_mix(place / "mix.yaml", [row])
    return [row]
