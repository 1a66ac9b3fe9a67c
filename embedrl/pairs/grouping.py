"""Which pairs go to validation: whole groups of what hangs together, so that nothing of it leaks."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from embedrl.data.pair_tasks import folded
from embedrl.errors import ConfigError, DataError

if TYPE_CHECKING:
    from embedrl.pairs.collection import CaptionedItem, SplitBy


def take_validation(name: str, items: Sequence[CaptionedItem], by: SplitBy, validation: float, seed: int) -> list[bool]:
    """Which items are held out for validation.

    Groups are taken in an order that the seed draws, as long as the share is not exceeded.

    Args:
        name: Name of the data set, for errors.
        items: The items.
        by: See `PairSet.split`.
        validation: Share of the items.
        seed: Seed of the choice.

    Raises:
        ConfigError: If an option is out of range.
        DataError: If all items hang together.
    """
    if not 0 <= validation < 1:
        raise ConfigError(f"validation is {validation}: give a share from 0 to below 1")
    if by not in ("caption", "picture"):
        raise ConfigError(f"split by {by!r}: choose caption or picture")
    held = [False] * len(items)
    if not validation:
        return held
    groups = connected([_keys(item, by) for item in items])
    if len(groups) < 2:
        raise DataError(
            f"{name}: all {len(items)} pairs hang together by equal captions, pictures or groups: none can be set "
            "apart for validation; give validation 0, or another file to validate with"
        )
    ranked = sorted(groups, key=lambda group: _draw(items, group, seed))
    room = min(max(1, round(validation * len(items))), len(items) - 1)  # something stays for training
    taken: list[int] = []
    for group in ranked:
        if len(taken) + len(group) <= room:
            taken += group
    for index in taken or min(ranked, key=len):
        held[index] = True
    return held


def connected(keys: Sequence[Sequence[object]]) -> list[list[int]]:
    """The connected components of things that share keys, each in order.

    Args:
        keys: The keys of each thing.

    >>> connected([["a"], ["b", "c"], ["a", "d"], ["c"]])
    [[0, 2], [1, 3]]
    """
    parent = list(range(len(keys)))

    def top(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[object, int] = {}
    for index, own in enumerate(keys):
        for key in own:
            parent[top(index)] = top(first.setdefault(key, index))
    groups: dict[int, list[int]] = defaultdict(list)
    for index in range(len(keys)):
        groups[top(index)].append(index)
    return list(groups.values())


def _keys(item: CaptionedItem, by: SplitBy) -> list[object]:
    keys: list[object] = [("picture", item.content)]
    if by == "caption":
        keys.append(("caption", folded(item.text)))
    if item.group:
        keys.append(("group", item.group))
    return keys


def _draw(items: Sequence[CaptionedItem], group: Sequence[int], seed: int) -> bytes:
    """The place of a group in the draw, from what it holds."""
    least = min(f"{folded(items[index].text)}\n{items[index].content}" for index in group)
    return hashlib.blake2b(f"{seed}:{least}".encode(), digest_size=16).digest()
