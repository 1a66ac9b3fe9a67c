"""Lessons on still pictures: describing, pointing, answering and choosing."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from embedrl.data.world.lessons.parts import Objects, Part, answering, crop, image, make_lesson, pointing, raster
from embedrl.data.world.scene import (
    CORNER_CELLS,
    FRAME_SIZE,
    TEXTURES,
    Picture,
    Split,
    Thing,
    close_up,
    fill,
    make_picture,
    marks,
    random_scene,
    triples,
)
from embedrl.data.world.vocabulary import COLORS, QUESTIONS, RELATIONS, SHAPES
from embedrl.types import Lesson


def describe(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """Every object in raster order, its place first: what ties words to places."""
    scene = _scene(rng, split, objects)
    return make_lesson("describe", [image(scene)], "caption of the picture .", raster(scene.things))


def point(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """One to three names → place and box of each."""
    scene = _scene(rng, split, objects)
    things = rng.sample(scene.things, rng.randint(1, min(3, len(scene.things))))
    names = " and the ".join(thing.kind for thing in things)
    return pointing("point", scene, f"find the {names} .", things)


def locate(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """All names in any order → their places."""
    scene = _scene(rng, split, objects)
    things = rng.sample(scene.things, len(scene.things))
    names = " and the ".join(thing.kind for thing in things)
    reply = " ".join(f"{thing.kind} {thing.place}" for thing in things)
    return make_lesson("locate", [image(scene)], f"where is the {names} ?", reply)


def point_place(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """A place → what is there, and its box."""
    scene = _scene(rng, split, objects)
    thing = rng.choice(scene.things)
    return pointing("point_place", scene, f"find the object at the {thing.place} .", [thing])


def point_relation(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """A relation to a named object → the other object's name, place and box."""
    scene, thing, word, other = _neighbours(rng, split, objects)
    return pointing("point_relation", scene, f"find the object {word} the {thing.kind} .", [other])


def point_twice(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """The kind that occurs twice, with both boxes."""
    scene, pair = _twins(rng, split, objects)
    return pointing("point_twice", scene, "find the kind that occurs twice .", pair)


def where(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """A name, a colour alone or a shape alone → its place."""
    scene = _scene(rng, split, objects)
    things = {
        "name": [(thing, thing.kind) for thing in scene.things],
        "color": [(thing, f"{COLORS[thing.color]} object") for thing in _unique(scene.things, lambda t: t.color)],
        "shape": [(thing, SHAPES[thing.shape]) for thing in _unique(scene.things, lambda t: t.shape)],
    }
    # Every colour or shape may occur twice; names never do. Shapes are the hardest to locate, so they are asked for
    # most.
    options = things[rng.choices(("name", "color", "shape"), (3, 1, 4))[0]] or things["name"]
    thing, phrase = rng.choice(options)
    return answering("where", [image(scene)], f"where is the {phrase} ?", thing.place)


def answer_place(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """A direct question: a place → what is there."""
    scene = _scene(rng, split, objects)
    thing = rng.choice(scene.things)
    return answering("answer_place", [image(scene)], QUESTIONS["place"].format(place=thing.place), thing.kind)


def answer_relation(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """A relational question: what stands beside a named object."""
    scene, thing, word, other = _neighbours(rng, split, objects)
    question = QUESTIONS["relation"].format(relation=word, kind=thing.kind)
    return answering("answer_relation", [image(scene)], question, other.kind)


def answer_twice(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """Which kind occurs twice."""
    scene, pair = _twins(rng, split, objects)
    return answering("answer_twice", [image(scene)], "which kind occurs twice ?", pair[0].kind)


def close(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """A close-up, a crop from a scene, or a key frame, at native resolution → the object's name."""
    part, (color, shape, _, _) = _close_part(rng, split, objects)
    return answering("close", [part], "what is this ?", f"{COLORS[color]} {SHAPES[shape]}")


def mark(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """The same → the numbers of the textures in its upper and lower half, for which no other text has a word."""
    part, (_, _, _, number) = _close_part(rng, split, objects)
    upper, lower = divmod(number, TEXTURES)
    return answering("mark", [part], "what mark is this ?", f"{upper} {lower}")


def _close_part(rng: random.Random, split: Split, objects: Objects) -> tuple[Part, tuple[int, int, int, int]]:
    """One object at native resolution, and its (colour, shape, cell, mark)."""
    color, shape, cell = rng.choice(triples(split, CORNER_CELLS))
    entry = (color, shape, cell, rng.choice(marks(split)))
    shown = rng.choice(("close-up", "crop", "key frame"))
    if shown == "close-up":
        return image(close_up(rng, color, shape, entry[3])), entry
    if shown == "crop":
        scene = random_scene(rng, split, count=rng.randint(*objects), first=entry)
        thing = next(t for t in scene.things if t.cell == cell)
        return crop(scene, scene.box(thing), margin=rng.uniform(0, 0.2)), entry
    return crop(make_picture(rng, [entry], FRAME_SIZE, columns=2), (0, 0, 1000, 1000), margin=0), entry


def choose(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """Which of two to four texts fits the picture → its number."""
    scene = _scene(rng, split, objects)
    texts = [raster(scene.things)]
    for _ in range(rng.randint(1, 3)):
        texts.append(raster(_altered(rng, scene.things)) if rng.random() < 0.7 else raster(random_scene(rng).things))
    if len(set(texts)) < len(texts):
        return choose(rng, split, objects)
    right = texts[0]
    rng.shuffle(texts)
    listed = " ".join(f"{i} : {text} ;" for i, text in enumerate(texts, 1))
    question = f"{listed} which caption matches ?"
    return answering("choose", [image(scene)], question, str(texts.index(right) + 1))


def _scene(rng: random.Random, split: Split, objects: Objects) -> Picture:
    return random_scene(rng, split, count=rng.randint(*objects))


def _neighbours(rng: random.Random, split: Split, objects: Objects) -> tuple[Picture, Thing, str, Thing]:
    """A scene, an object, a relation word, and the object that stands in this relation to it."""
    while True:
        scene = _scene(rng, split, objects)
        candidates = []
        for thing in scene.things:
            row, column = divmod(thing.cell, 3)
            for word, (dx, dy) in RELATIONS.items():
                inside = 0 <= column + dx < 3 and 0 <= row + dy < 3
                other = scene.at(3 * (row + dy) + column + dx) if inside else None
                if other is not None:
                    candidates.append((scene, thing, word, other))
        if candidates:
            return rng.choice(candidates)


def _twins(rng: random.Random, split: Split, objects: Objects) -> tuple[Picture, list[Thing]]:
    """A scene in which exactly one kind occurs twice, and the two."""
    while True:
        color, shape, cell = rng.choice(triples(split))
        others = [c for k, s, c in triples("train") if (k, s) == (color, shape) and c != cell]
        if others:
            break
    entries = [(color, shape, place, rng.choice(marks(split))) for place in (cell, rng.choice(others))]
    scene = make_picture(rng, fill(rng, split, entries, max(3, rng.randint(*objects))))
    return scene, [thing for thing in scene.things if (thing.color, thing.shape) == (color, shape)]


def _unique(things: Sequence[Thing], key: Callable[[Thing], Any]) -> list[Thing]:
    values = [key(thing) for thing in things]
    return [thing for thing, value in zip(things, values, strict=True) if values.count(value) == 1]


def _altered(rng: random.Random, things: Sequence[Thing]) -> list[Thing]:
    """The same objects, but one has another colour or shape."""
    index = rng.randrange(len(things))
    thing = things[index]
    other = (
        replace(thing, color=(thing.color + rng.randrange(1, len(COLORS))) % len(COLORS))
        if rng.random() < 0.5
        else replace(thing, shape=(thing.shape + rng.randrange(1, len(SHAPES))) % len(SHAPES))
    )
    return [*things[:index], other, *things[index + 1 :]]
