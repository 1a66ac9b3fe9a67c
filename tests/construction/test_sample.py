"""Samples and draws: sizes, shares of strata, equal distances, seeds."""

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedrl.construction.sample import Caps, equal_distances, sample
from embedrl.errors import ConfigError, DataError
from embedrl.types import Modality, Pair, Side


@dataclass
class Labels:
    """A classification set whose targets are these labels; None is a broken row."""

    labels: list
    name: str = "labels"
    modality: Modality = Modality.IMAGE

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        if self.labels[index] is None:
            raise DataError("broken")
        return Pair(Side(f"row {index}"), Side(self.labels[index]), self.name, str(index))


@given(st.integers(0, 300), st.integers(0, 300))
def test_equal_distances(number, size):
    if size > number:
        with pytest.raises(ValueError, match=f"{size} of {number}"):
            equal_distances(range(number), size)
        return
    drawn = equal_distances(range(number), size)
    assert len(set(drawn)) == len(drawn) == size
    assert drawn == sorted(drawn)
    gaps = {b - a for a, b in zip(drawn, [*drawn[1:], number], strict=False)}
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 100), st.integers(0, 5))
def test_every_stratum_keeps_its_share_up_to_one_row(sizes, cap, seed):
    labels = [str(i) for i, size in enumerate(sizes) for _ in range(size)]
    rows = sample(Labels(labels), cap, seed, "x")
    assert len(rows) == len(set(rows)) == min(cap, len(labels))
    assert rows == sorted(rows)
    counts = Counter(labels[row] for row in rows)
    for label, size in Counter(labels).items():
        assert abs(counts[label] - size * len(rows) / len(labels)) < 1 + 1e-9


def test_the_seed_and_the_name_decide():
    source = Labels([str(i) for i in range(100)])
    draws = {tuple(sample(source, 10, seed, name)) for seed, name in [(0, "a"), (1, "a"), (0, "b")]}
    assert len(draws) == 3
    assert sample(source, 10, 0, "a") == sample(source, 10, 0, "a")
    assert sample(source, 100, 0, "a") == sample(source, 200, 5, "b") == list(range(100))


def test_broken_rows_do_not_stop_the_sample():
    assert len(sample(Labels(["a", None, "b", None]), 2, 0, "x")) == 2


def test_caps():
    caps = Caps(image=1, document=2, video=3, documents=["pages"])
    assert [caps.of("x", Modality.IMAGE), caps.of("x", Modality.TEXT), caps.of("x", Modality.VIDEO)] == [1, 1, 3]
    assert caps.of("pages", Modality.IMAGE) == 2
    with pytest.raises(ConfigError, match=r"caps\.video 0"):
        Caps(video=0)
