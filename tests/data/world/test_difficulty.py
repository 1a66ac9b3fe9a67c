"""The known difficulty of the world's pairs, against what the pairs themselves show."""

import pytest

from embedrl.data.world import FAMILIES, WorldDifficulty, WorldSource
from embedrl.errors import DataError


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_what_the_pair_shows(family):
    difficulty = WorldDifficulty()
    for pair in WorldSource(family, "val", size=12, teacher="none"):
        got = difficulty(pair.id)
        shown = next(side for side in (pair.query, pair.target) if side.images or side.frames)
        assert got["frames"] == max(1, len(shown.frames))
        things = {
            (thing.cell, thing.color, thing.shape)
            for image in (*shown.images, *shown.frames) for thing in getattr(image.spec, "things", ())
        }  # fmt: skip
        assert got["objects"] == (len(things) if things else 3)
        words = ("right of the", "left of the", "above the", "below the", "after the", "before the")
        assert got["steps"] == 1 + any(word in pair.query.text for word in words)


def test_other_ids():
    with pytest.raises(DataError, match="is not a pair of the world"):
        WorldDifficulty()("something-else")
