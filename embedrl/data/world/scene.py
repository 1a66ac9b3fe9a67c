"""Pictures as specifications: objects on a grid, and the splits that hold combinations of them out.

A picture is plain numbers; `draw.WorldImage` turns it into pixels. Every object carries a *mark*: a fine texture in
its upper half and one in its lower half. No text of a pair names a mark, and no teacher does: it is what a crop at
native resolution shows and the model's input, three times smaller, does not. Only the base learns to tell marks apart,
by numbers that mean nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from embedrl.data.world.vocabulary import COLORS, COORDINATE_STEP, PLACES, SHAPES
from embedrl.tcot.schema import Box

Split = Literal["train", "val", "test", "test2"]
SPLITS: tuple[Split, ...] = ("train", "val", "test", "test2")
OWNERS: tuple[Split, ...] = ("train", "val", "test")
"""The splits that combinations are shared out to."""
OWN_TRIPLES: dict[Split, Split] = {"train": "train", "val": "val", "test": "test", "test2": "val"}
"""Whose (colour, shape, cell) triples and page labels a split's pictures hold besides train's.

`test2` crosses what is held out: val's triples with test's marks. Such a picture is in neither of the two, and its
parts are not in train either. So figures can be taken on a split that nobody has read, and training stays as it is.
"""
OWN_MARKS: dict[Split, Split] = {"train": "train", "val": "val", "test": "test", "test2": "test"}
"""Whose marks a split's objects carry."""

SCENE_SIZE = 144
"""Side of a scene in native pixels: a 3 × 3 grid of 48-pixel cells, for an input of 48 × 48 (one token per cell)."""
FRAME_SIZE = 64
"""Side of a video frame: a 2 × 2 grid of 32-pixel cells; made for an input of 32 × 32 (one token per cell)."""
CLOSE_UP_SIZE = 48
"""Side of a close-up of one object, which the model sees at native resolution."""

TEXTURES = 7
"""Textures of one half: plain, horizontal, vertical, rising, falling, check, plaid."""
MARKS = TEXTURES * TEXTURES
"""A mark is `upper * TEXTURES + lower`."""

ALL_CELLS: tuple[int, ...] = tuple(range(9))
CORNER_CELLS: tuple[int, ...] = (0, 2, 6, 8)
"""The cells of a video frame, by their number in the 3 × 3 grid (so that places keep their names)."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One object in a picture.

    Attributes:
        color: Position in `COLORS`.
        shape: Position in `SHAPES`.
        cell: Cell of the 3 × 3 grid in raster order.
        mark: The unworded texture, `0 .. MARKS - 1`.
        x: Left edge in native pixels.
        y: Upper edge in native pixels.
        size: Width and height in native pixels.
    """

    color: int
    shape: int
    cell: int
    mark: int
    x: int
    y: int
    size: int

    @property
    def kind(self) -> str:
        """Its name, e.g. `red star`."""
        return f"{COLORS[self.color]} {SHAPES[self.shape]}"

    @property
    def place(self) -> str:
        """Where it is, e.g. `top left`."""
        return PLACES[self.cell]

    @property
    def pixel_box(self) -> tuple[int, int, int, int]:
        """Corners in native pixels, right and lower edge exclusive."""
        return (self.x, self.y, self.x + self.size, self.y + self.size)


@dataclass(frozen=True, slots=True)
class Picture:
    """A scene, a video frame or a close-up.

    Attributes:
        size: Width and height in native pixels.
        background: Colour behind the objects, 0..255 each.
        grain: Selects the background's noise.
        things: The objects in raster order.
    """

    size: int
    background: tuple[int, int, int]
    grain: int
    things: tuple[Thing, ...]

    @property
    def name(self) -> str:
        """The content as text: equal names mean equal pixels."""
        things = ";".join(f"{t.color},{t.shape},{t.cell},{t.mark},{t.x},{t.y},{t.size}" for t in self.things)
        return f"world/{self.size}/{'.'.join(map(str, self.background))}/{self.grain}/{things}"

    def box(self, thing: Thing) -> Box:
        """The object's exact corners, 0..1000 relative to the picture."""
        left, top, right, bottom = (1000 * edge / self.size for edge in thing.pixel_box)
        return (left, top, right, bottom)

    def at(self, cell: int) -> Thing | None:
        """The object in a cell, if any."""
        return next((t for t in self.things if t.cell == cell), None)


def round_box(box: Box) -> tuple[int, int, int, int]:
    """A box on the grid that texts use, never empty."""
    x1, y1, x2, y2 = (min(1000, max(0, COORDINATE_STEP * round(edge / COORDINATE_STEP))) for edge in box)
    x2, y2 = max(x2, x1 + COORDINATE_STEP), max(y2, y1 + COORDINATE_STEP)
    return (min(x1, 1000 - COORDINATE_STEP), min(y1, 1000 - COORDINATE_STEP), min(x2, 1000), min(y2, 1000))


def triple_split(color: int, shape: int, cell: int) -> Split:
    """The split that owns a (colour, shape, cell) triple: 7/9 train, 1/9 val, 1/9 test.

    A Latin pattern rather than a hash, so that every pair (colour, shape), (colour, cell), (shape, cell) keeps at
    least four in six of its triples in train: what is held out is the combination, never a part of it.
    """
    rank = (2 * color + 5 * shape + cell) % 9
    return "val" if rank == 0 else "test" if rank == 1 else "train"


def mark_split(mark: int) -> Split:
    """The split that owns a mark: 35 train, 7 val, 7 test; every half texture occurs in train."""
    upper, lower = divmod(mark, TEXTURES)
    rank = (upper + 3 * lower) % 7
    return "val" if rank == 0 else "test" if rank == 1 else "train"


@lru_cache(maxsize=16)
def triples(split: Split, cells: tuple[int, ...] = ALL_CELLS) -> tuple[tuple[int, int, int], ...]:
    """All (colour, shape, cell) triples that are a split's own, within the given cells."""
    return tuple(
        (color, shape, cell)
        for color in range(len(COLORS))
        for shape in range(len(SHAPES))
        for cell in cells
        if triple_split(color, shape, cell) == OWN_TRIPLES[split]
    )


@lru_cache(maxsize=4)
def marks(split: Split) -> tuple[int, ...]:
    """All marks that are a split's own."""
    return tuple(mark for mark in range(MARKS) if mark_split(mark) == OWN_MARKS[split])


def allowed(split: Split, color: int, shape: int, cell: int) -> bool:
    """Whether a picture of the split may hold this triple: train's or its own."""
    return triple_split(color, shape, cell) in ("train", OWN_TRIPLES[split])


def random_background(rng: random.Random) -> tuple[int, int, int]:
    """A light colour for behind the objects."""
    return (rng.randrange(205, 250), rng.randrange(205, 250), rng.randrange(205, 250))


def place_thing(
    rng: random.Random, color: int, shape: int, cell: int, mark: int, size: int = SCENE_SIZE, columns: int = 3
) -> Thing:
    """Put an object of jittered size at a jittered position inside its cell.

    Args:
        rng: Source of the jitter.
        color: Position in `COLORS`.
        shape: Position in `SHAPES`.
        cell: Cell of the 3 × 3 grid; with `columns=2` a corner cell.
        mark: The mark.
        size: The picture's side in native pixels.
        columns: Cells per side.
    """
    side = size // columns
    extent = rng.randrange(round(0.72 * side), round(0.84 * side) + 1)
    row, column = divmod(cell, 3)
    if columns == 2:
        row, column = row // 2, column // 2
    slack = side - extent
    x = column * side + rng.randrange(1, slack)
    y = row * side + rng.randrange(1, slack)
    return Thing(color, shape, cell, mark, x, y, extent)


def make_picture(
    rng: random.Random, triples_: Sequence[tuple[int, int, int, int]], size: int = SCENE_SIZE, columns: int = 3
) -> Picture:
    """A picture of the given (colour, shape, cell, mark) objects with its own background.

    Args:
        rng: Source of background and jitter.
        triples_: The objects.
        size: The picture's side in native pixels.
        columns: Cells per side.
    """
    things = tuple(place_thing(rng, *entry, size, columns) for entry in sorted(triples_, key=lambda e: e[2]))
    return Picture(size, random_background(rng), rng.randrange(1 << 16), things)


def close_up(rng: random.Random, color: int, shape: int, mark: int) -> Picture:
    """One object alone, large, on a background of its own: nothing of the picture it was taken from is left."""
    extent = rng.randrange(34, 43)
    x, y = rng.randrange(1, CLOSE_UP_SIZE - extent), rng.randrange(1, CLOSE_UP_SIZE - extent)
    thing = Thing(color, shape, 4, mark, x, y, extent)
    return Picture(CLOSE_UP_SIZE, random_background(rng), rng.randrange(1 << 16), (thing,))


def random_scene(
    rng: random.Random,
    split: Split = "train",
    count: int | None = None,
    first: tuple[int, int, int, int] | None = None,
    distinct: bool = True,
) -> Picture:
    """A scene of 4 to 6 objects.

    Args:
        rng: Source of everything.
        split: Train scenes hold train's triples and marks alone; others hold at least one triple of their own.
        count: Number of objects; drawn from 4..6 if None.
        first: A (colour, shape, cell, mark) that must be in it; if None one of the split's own is drawn.
        distinct: Whether every kind occurs once.
    """
    count = count or rng.randrange(4, 7)
    own, all_marks = triples(split), marks(split)
    if first is None:
        first = (*rng.choice(own), rng.choice(all_marks))
    return make_picture(rng, fill(rng, split, [first], count, distinct=distinct))


def fill(
    rng: random.Random,
    split: Split,
    entries: Sequence[tuple[int, int, int, int]],
    count: int,
    cells: tuple[int, ...] = ALL_CELLS,
    distinct: bool = True,
) -> list[tuple[int, int, int, int]]:
    """Add random objects in free cells until there are `count`.

    Args:
        rng: Source of everything.
        split: Whose triples (its own and train's) and marks may be added.
        entries: The (colour, shape, cell, mark) objects that are there.
        count: Total number of objects.
        cells: Cells that may be used.
        distinct: Whether an added object's kind must be new.
    """
    result = list(entries)
    free = [cell for cell in cells if all(cell != entry[2] for entry in result)]
    rng.shuffle(free)
    kinds = {entry[:2] for entry in result}
    while len(result) < count and free:
        color, shape = rng.randrange(len(COLORS)), rng.randrange(len(SHAPES))
        if (distinct and (color, shape) in kinds) or not allowed(split, color, shape, free[-1]):
            continue
        result.append((color, shape, free.pop(), rng.choice(marks(split))))
        kinds.add((color, shape))
    return result
