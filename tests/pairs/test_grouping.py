"""What a split must never do: put one caption, or one picture, on both sides."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedrl.data.pair_tasks import folded
from embedrl.errors import ConfigError, DataError
from embedrl.pairs.collection import CaptionedItem, PairSet
from embedrl.pairs.grouping import _keys, connected
from embedrl.pairs.media import MediaFile


def pair_set(rows):
    """Items of captions, picture contents and groups."""
    items = []
    for number, (text, content, group) in enumerate(rows):
        digest = hashlib.sha256(str(content).encode()).hexdigest()
        items.append(CaptionedItem(str(number), text, MediaFile(Path(f"{number}.png"), f"{number}.png"), digest, group))
    return PairSet("set", tuple(items), Path())


ROWS = st.lists(
    st.tuples(
        st.one_of(
            st.sampled_from(["red fox", "Red  FOX", "STRASSE", "straße", "caf\u00e9", "cafe\u0301"]),
            st.text("abc ", min_size=1),
        ),
        st.integers(0, 12),
        st.sampled_from(["", "", "g1", "g2"]),
    ),
    min_size=2,
    max_size=30,
)


@settings(max_examples=30, deadline=None)
@given(ROWS, st.sampled_from(["caption", "picture"]), st.floats(0.01, 0.9), st.integers(0, 3))
def test_nothing_stands_on_both_sides(rows, by, share, seed):
    pairs = pair_set(rows)
    if len(connected([_keys(item, by) for item in pairs.items])) < 2:
        with pytest.raises(DataError, match="hang together"):
            pairs.split(by, share, seed)
        return
    train, validation = pairs.split(by, share, seed)
    assert train.items
    assert validation.items
    assert sorted(item.id for half in (train, validation) for item in half.items) == sorted(i.id for i in pairs.items)
    sides = [{"picture": set(), "caption": set(), "group": set()} for _ in range(2)]
    for side, half in zip(sides, (train, validation), strict=True):
        for item in half.items:
            side["picture"].add(item.content)
            side["caption"].add(" ".join(folded(item.text).split()))
            side["group"] |= {item.group} - {""}
    for key in ("picture", "group", *(["caption"] if by == "caption" else [])):
        assert not sides[0][key] & sides[1][key]
    again = PairSet("set", tuple(reversed(pairs.items)), Path()).split(by, share, seed)[1]
    assert {(i.text, i.content) for i in again.items} == {(i.text, i.content) for i in validation.items}


def test_the_share_is_met_where_pairs_stand_alone():
    pairs = pair_set([(f"caption {i}", i, "") for i in range(200)])
    train, validation = pairs.split(validation=0.1, seed=3)
    assert (len(train), len(validation)) == (180, 20)
    assert pairs.split(validation=0.1, seed=3) == (train, validation)
    assert pairs.split(validation=0.1, seed=4) != (train, validation)
    assert len(pairs.split(validation=0).validation) == 0


def test_chains_stay_together():
    """a-1, b-1, b-2, c-2 hang together through captions and pictures in turn."""
    pairs = pair_set([("a", 1, ""), ("b", 1, ""), ("B ", 2, ""), ("c", 2, ""), ("d", 3, "")])
    for seed in range(5):
        assert [item.text for item in pairs.split(validation=0.2, seed=seed).validation.items] == ["d"]


BAD = {
    "share": ({"validation": 1.0}, ConfigError, "validation is 1.0: give a share from 0 to below 1"),
    "not a number": ({"validation": float("nan")}, ConfigError, "validation is nan"),
    "by": ({"by": "colour"}, ConfigError, "split by 'colour': choose caption or picture"),
    "all together": ({}, DataError, "set: all 2 pairs hang together"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options(case):
    options, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        pair_set([("a", 1, ""), ("A", 2, "")]).split(**options)
