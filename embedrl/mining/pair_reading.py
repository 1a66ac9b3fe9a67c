"""Reading the pairs of a data set, bad rows left out where that is asked for."""

from __future__ import annotations

from collections import Counter

from embedrl.data.mix import MixRow
from embedrl.data.on_bad import OnBad
from embedrl.data.pair_dataset import pair_name
from embedrl.errors import DataError
from embedrl.types import Pair


def read_pairs(row: MixRow, bad: OnBad) -> tuple[list[Pair], Counter[str]]:
    """The pairs of a data set; rows that cannot be read are counted by cause.

    Args:
        row: The data set.
        bad: Where bad rows are counted and named.

    Raises:
        DataError: If a row cannot be read and the run stops at bad ones.
    """
    pairs, unreadable = [], Counter[str]()
    for i in range(len(row.source)):
        try:
            pairs.append(row.source[i])
        except DataError as error:
            unreadable[bad.skip(error, row.label, pair_name(row.source, i)).cause] += 1
    return pairs, unreadable
