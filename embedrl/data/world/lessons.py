"""Lessons that teach the world: describing, pointing, answering, reading and choosing."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from embedrl.data.world.draw import WorldImage
from embedrl.data.world.scene import Picture, Split, Thing, fill, marks, make_picture, random_scene, round_box, triples
from embedrl.data.world.vocabulary import COLORS, PLACES, RELATIONS, SHAPES
from embedrl.types import Lesson

Maker = Callable[[random.Random, Split], Lesson]


def image_part(spec: Any) -> dict[str, Any]:
    return {"type": "image", "image": WorldImage(spec).load()}


def ask(parts: Sequence[dict[str, Any]], question: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def boxes_text(boxes: Sequence[tuple[int, int, int, int]]) -> str:
    return json.dumps({"bbox_2d": [list(box) for box in boxes]})


def raster(picture: Picture) -> str:
    return " ".join(f"{t.place} {t.kind}" for t in picture.things)


def unique(things: Sequence[Thing], key: Callable[[Thing], Any]) -> list[Thing]:
    values = [key(t) for t in things]
    return [t for t, v in zip(things, values, strict=True) if values.count(v) == 1]


def describe(rng: random.Random, split: Split) -> Lesson:
    scene = random_scene(rng, split)
    return Lesson(ask([image_part(scene)], "describe the picture ."), raster(scene), "describe")


def point(rng: random.Random, split: Split) -> Lesson:
    scene = random_scene(rng, split)
    thing = rng.choice(scene.things)
    box = round_box(scene.box(thing))
    return Lesson(
        ask([image_part(scene)], f"find the {thing.kind} ."),
        f"{thing.kind} {thing.place} {boxes_text([box])}",
        "point",
        {"boxes": [scene.box(thing)]},
    )


def where(rng: random.Random, split: Split) -> Lesson:
    scene = random_scene(rng, split)
    thing = rng.choice(scene.things)
    return Lesson(
        ask([image_part(scene)], f"where is the {thing.kind} ?"), thing.place, "where", {"answer": thing.place}
    )


def where_color(rng: random.Random, split: Split) -> Lesson:
    scene = random_scene(rng, split)
    options = unique(scene.things, lambda t: t.color)
    if not options:
        return where_color(rng, split)
    thing = rng.choice(options)
    return Lesson(
        ask([image_part(scene)], f"where is the {COLORS[thing.color]} object ?"),
        f"{thing.place}",
        "where_color",
        {"answer": thing.place},
    )


def where_shape(rng: random.Random, split: Split) -> Lesson:
    scene = random_scene(rng, split)
    options = unique(scene.things, lambda t: t.shape)
    if not options:
        return where_shape(rng, split)
    thing = rng.choice(options)
    return Lesson(
        ask([image_part(scene)], f"where is the {SHAPES[thing.shape]} ?"),
        f"{thing.place}",
        "where_shape",
        {"answer": thing.place},
    )


def what(rng: random.Random, split: Split) -> Lesson:
    scene = random_scene(rng, split)
    thing = rng.choice(scene.things)
    return Lesson(
        ask([image_part(scene)], f"what is at the {thing.place} ?"), thing.kind, "what", {"answer": thing.kind}
    )


def neighbours(scene: Picture) -> list[tuple[Thing, str, Thing]]:
    found = []
    for thing in scene.things:
        row, column = divmod(thing.cell, 3)
        for word, (dx, dy) in RELATIONS.items():
            if 0 <= column + dx < 3 and 0 <= row + dy < 3:
                other = scene.at(3 * (row + dy) + column + dx)
                if other:
                    found.append((thing, word, other))
    return found


def relation(rng: random.Random, split: Split) -> Lesson:
    scene = random_scene(rng, split)
    options = neighbours(scene)
    if not options:
        return relation(rng, split)
    thing, word, other = rng.choice(options)
    return Lesson(
        ask([image_part(scene)], f"what is {word} the {thing.kind} ?"), other.kind, "relation", {"answer": other.kind}
    )


def point_relation(rng: random.Random, split: Split) -> Lesson:
    scene = random_scene(rng, split)
    options = neighbours(scene)
    if not options:
        return point_relation(rng, split)
    thing, word, other = rng.choice(options)
    return Lesson(
        ask([image_part(scene)], f"find the object {word} the {thing.kind} ."),
        f"{other.kind} {other.place} {boxes_text([round_box(scene.box(other))])}",
        "point_relation",
        {"boxes": [scene.box(other)]},
    )


MAKERS: dict[str, Maker] = {
    "describe": describe,
    "point": point,
    "where": where,
    "where_color": where_color,
    "where_shape": where_shape,
    "what": what,
    "relation": relation,
    "point_relation": point_relation,
}
