"""The world's pairs before T-CoTs are written for them, one by one or in blocks of hard negatives of one another."""

from __future__ import annotations

import random
from collections import Counter
from functools import lru_cache

from embedrl.data.world.families import FAMILIES
from embedrl.data.world.scene import SPLITS, Split
from embedrl.data.world.views import WorldSample
from embedrl.errors import DataError

VERSION = "1"
"""Increased whenever the same seed gives another world, so that a figure can name the world it belongs to."""

POOL = 256
"""Size of the pool from which the samples of a block are chosen."""

LARGEST_BLOCK = 8


def make_sample(family: str, split: Split, seed: int, index: int) -> WorldSample:
    """A pair before its T-CoTs are written: a pure function of the arguments."""
    return FAMILIES[family].make(random.Random(f"world/{VERSION}/{family}/{split}/{seed}/{index}"), split)


def sample_of(pair_id: str) -> WorldSample:
    """The pair that an id names.

    Args:
        pair_id: A `Pair.id` of the world, e.g. `grounding-train-0-123`.

    Raises:
        DataError: If it is not such an id.
    """
    parts = pair_id.split("-")
    if len(parts) != 4 or parts[0] not in FAMILIES or parts[1] not in SPLITS:
        raise DataError(f"{pair_id!r} is not a pair of the world: ids look like grounding-train-0-123")
    split = next(known for known in SPLITS if known == parts[1])
    return make_sample(parts[0], split, int(parts[2]), int(parts[3]))


@lru_cache(maxsize=256)
def alike_samples(family: str, split: Split, seed: int, block: int, count: int) -> tuple[int, ...]:
    """Indices of a block of samples that are hard negatives of one another.

    Of a pool of samples, the first, and the `count - 1` whose answers share most words with its answer. None is right
    for the query of another, as far as the pool allows.

    Args:
        family: The task family.
        split: Its split.
        seed: Another seed gives other samples.
        block: Number of the block; each has a pool of its own.
        count: Samples in the block, at most `LARGEST_BLOCK`.
    """
    fits = FAMILIES[family].fits
    pool = {i: make_sample(family, split, seed, i) for i in range(block * POOL, (block + 1) * POOL)}
    words = {i: Counter(sample.target.answer.split()) for i, sample in pool.items()}
    first, *rest = pool
    rest.sort(key=lambda i: -(words[i] & words[first]).total())
    chosen: list[int] = [first]
    spare: list[int] = []
    for i in rest:
        rivals = (pool[j] for j in chosen)
        wrong = not any(fits(pool[i].want, rival.have) or fits(rival.want, pool[i].have) for rival in rivals)
        (chosen if wrong else spare).append(i)
    return tuple((chosen + spare)[:count])
