"""Sampling the rows of a data set. Source: Embed-RL §3.2, C."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from embedrl.data.sources import PairSource
from embedrl.errors import ConfigError, DataError
from embedrl.types import Modality

T = TypeVar("T")


@dataclass
class Caps:
    """The most pairs that are taken from one data set. Source: Embed-RL C.

    Attributes:
        image: Cap of a data set of pictures, or of texts only.
        document: Cap of a data set of document pages, named in `documents`.
        video: Cap of a data set of videos.
        documents: Names of the data sets of document pages; a row does not say whether a picture is a page.
    """

    image: int = 50_000
    document: int = 100_000
    video: int = 300_000
    documents: list[str] | None = None

    def __post_init__(self) -> None:
        for name in ("image", "document", "video"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--caps.{name} {getattr(self, name)}: give 1 or more")

    def of(self, name: str, modality: Modality) -> int:
        """The cap of a data set."""
        if name in (self.documents or ()):
            return self.document
        return self.video if modality is Modality.VIDEO else self.image


def equal_distances(items: Sequence[T], size: int) -> list[T]:
    """Items drawn at equal distances, the first one included.

    >>> equal_distances("abcdefgh", 3)
    ['a', 'c', 'f']

    Raises:
        ValueError: If there are fewer items.
    """
    if not 0 <= size <= len(items):
        raise ValueError(f"{size} of {len(items)}")
    return [items[i * len(items) // size] for i in range(size)]


def sample(source: PairSource, cap: int, seed: int, name: str) -> list[int]:
    """Rows of a data set in order: all of them, or `cap` that keep the shares of its strata.

    A stratum holds the pairs with the same modalities and the same target text: the class of a classification set, the
    answer of a question. The rows of a stratum are shuffled, and rows are drawn at equal distances over the strata, so
    that each gets its share up to one row.

    Args:
        source: The data set.
        cap: The most rows.
        seed: Another seed draws other rows.
        name: Name of the data set; two sets draw independently.
    """
    rows = list(range(len(source)))
    if len(rows) <= cap:
        return rows
    strata = {row: _stratum(source, row) for row in rows}
    rng = random.Random(f"{seed}/{name}")
    rng.shuffle(rows)
    # The order of the strata decides which one gets a remaining row: it is drawn, too.
    order = {stratum: rng.random() for stratum in sorted(set(strata.values()))}
    rows.sort(key=lambda row: (order[strata[row]], strata[row]))
    return sorted(equal_distances(rows, cap))


def _stratum(source: PairSource, row: int) -> tuple[str, str, str]:
    try:
        pair = source[row]
    except DataError:  # annotation reports the error
        return "", "", ""
    return str(pair.query.modality), str(pair.target.modality), pair.target.text
