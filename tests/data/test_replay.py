"""Lessons of another kind among those of a training."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedrl.data.replay import Replay
from embedrl.errors import ConfigError
from embedrl.types import Lesson


@dataclass
class Named:
    """Lessons that say which they are."""

    name: str
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Lesson:
        assert 0 <= index < self.size
        return Lesson([], f"{self.name}{index}", self.name)


def test_every_third_lesson_is_replayed() -> None:
    mixed = Replay(Named("new", 4), Named("old", 9), every=3)
    assert [mixed[i].reply for i in range(len(mixed))] == ["old0", "new0", "new1", "old1", "new2", "new3"]


@given(st.integers(1, 40), st.integers(1, 5), st.integers(2, 6))
def test_every_new_lesson_has_its_turn_once_and_in_order(new: int, old: int, every: int) -> None:
    mixed = Replay(Named("new", new), Named("old", old), every)
    replies = [mixed[i].reply for i in range(len(mixed))]
    assert [r for r in replies if r.startswith("new")] == [f"new{i}" for i in range(new)]
    assert [r for r in replies if r.startswith("old")] == [f"old{i % old}" for i in range(len(mixed) - new)]
    with pytest.raises(IndexError):
        mixed[len(mixed)]


@pytest.mark.parametrize(
    ("new", "old", "every", "message"),
    [(4, 4, 1, "every is 1"), (0, 4, 3, "new has no lessons"), (4, 0, 3, "old has no lessons")],
)
def test_what_cannot_be_mixed_is_refused(new: int, old: int, every: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Replay(Named("new", new), Named("old", old), every)
