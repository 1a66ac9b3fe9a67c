"""Short videos: objects that appear, one after another, in the corners of a frame."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from embedrl.data.world.scene import FRAME_SIZE, Picture, Thing, place_thing, random_background

_OVERLAP = 0.4


@dataclass(frozen=True, slots=True)
class Event:
    """An object and the frames that show it.

    Attributes:
        thing: The object, at rest while it is there.
        frames: The frames, 1-based and contiguous.
    """

    thing: Thing
    frames: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Clip:
    """A video: its frames and what happens in them.

    Attributes:
        frames: The frames in order.
        events: The objects in order of appearance; no two appear in the same frame first.
    """

    frames: tuple[Picture, ...]
    events: tuple[Event, ...]

    def without(self, number: int) -> Clip:
        """The same video with everything gone from one frame (1-based); any other number changes nothing."""
        frames = tuple(replace(f, things=()) if i == number else f for i, f in enumerate(self.frames, start=1))
        return Clip(frames, tuple(Event(e.thing, tuple(f for f in e.frames if f != number)) for e in self.events))


def make_clip(rng: random.Random, entries: Sequence[tuple[int, int, int, int]], length: int = 8) -> Clip:
    """A video in which the given objects appear in order.

    The video is cut into one section per object, as equal as chance allows (at least two frames where `length`
    permits); an object may stay for one frame more, so every frame shows one or two.

    Args:
        rng: Source of timing, background and jitter.
        entries: (colour, shape, corner cell, mark) of each object, in order of appearance, cells all different.
        length: Number of frames, at least one per object.
    """
    stretches = _stretches(rng, len(entries), length)
    events: list[Event] = []
    start = 1
    for entry, stretch in zip(entries, stretches, strict=True):
        end = start + stretch
        stays = end <= length and rng.random() < _OVERLAP
        thing = place_thing(rng, *entry, size=FRAME_SIZE, columns=2)
        events.append(Event(thing, tuple(range(start, end + stays))))
        start = end
    background, grain = random_background(rng), rng.randrange(1 << 16)
    frames = tuple(
        Picture(
            FRAME_SIZE,
            background,
            grain + number,
            tuple(sorted((e.thing for e in events if number in e.frames), key=lambda thing: thing.cell)),
        )
        for number in range(1, length + 1)
    )
    return Clip(frames, tuple(events))


def _stretches(rng: random.Random, parts: int, length: int) -> list[int]:
    least = min(2, length // parts)
    result = [least] * parts
    for _ in range(length - least * parts):
        result[rng.randrange(parts)] += 1
    return result
