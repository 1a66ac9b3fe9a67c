"""Every kind of lesson: a function of (rng, split).

A reply that points ends in the cue object of a T-CoT, and names the object and its place before the numbers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from embedrl.data.world.draw import WorldImage
from embedrl.data.world.page import Page, labels, make_page
from embedrl.data.world.scene import (
    CORNER_CELLS,
    Picture,
    Split,
    Thing,
    close_up,
    fill,
    make_picture,
    marks,
    random_scene,
    round_box,
    triples,
)
from embedrl.data.world.video import Clip, Event, make_clip
from embedrl.data.world.vocabulary import COLORS, PAGE_WORDS, QUESTIONS, RELATIONS, ROWS, SHAPES
from embedrl.tcot.evidence import crop_box
from embedrl.tcot.schema import Box, Cues
from embedrl.types import Lesson, Modality

Part = dict[str, Any]
Objects = tuple[int, int]
"""Fewest and most objects of a scene: fewer make it easier to learn what a name points to."""


def describe(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """Every object in raster order, its place first: what ties words to places."""
    scene = _scene(rng, split, objects)
    return _lesson("describe", [_image(scene)], "caption of the picture .", _raster(scene.things))


def point(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """One to three names → place and box of each."""
    scene = _scene(rng, split, objects)
    things = rng.sample(scene.things, rng.randint(1, min(3, len(scene.things))))
    names = " and the ".join(thing.kind for thing in things)
    return _pointing("point", scene, f"find the {names} .", things)


def locate(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """All names in any order → their places."""
    scene = _scene(rng, split, objects)
    things = rng.sample(scene.things, len(scene.things))
    names = " and the ".join(thing.kind for thing in things)
    reply = " ".join(f"{thing.kind} {thing.place}" for thing in things)
    return _lesson("locate", [_image(scene)], f"where is the {names} ?", reply)


def point_place(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """A place → what is there, and its box."""
    scene = _scene(rng, split, objects)
    thing = rng.choice(scene.things)
    return _pointing("point_place", scene, f"find the object at the {thing.place} .", [thing])


def point_relation(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """A relation to a named object → the other object's name, place and box."""
    scene, thing, word, other = _neighbours(rng, split, objects)
    return _pointing("point_relation", scene, f"find the object {word} the {thing.kind} .", [other])


def point_twice(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """The kind that occurs twice, with both boxes."""
    scene, pair = _twins(rng, split, objects)
    return _pointing("point_twice", scene, "find the kind that occurs twice .", pair)


def where(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """A name, a colour alone or a shape alone → its place."""
    scene = _scene(rng, split, objects)
    things = {
        "name": [(thing, thing.kind) for thing in scene.things],
        "color": [(thing, f"{COLORS[thing.color]} object") for thing in _unique(scene.things, lambda t: t.color)],
        "shape": [(thing, SHAPES[thing.shape]) for thing in _unique(scene.things, lambda t: t.shape)],
    }
    # Every colour or shape may occur twice; names never do.
    options = things[rng.choice(("name", "color", "shape"))] or things["name"]
    thing, phrase = rng.choice(options)
    return _answer("where", [_image(scene)], f"where is the {phrase} ?", thing.place)


def answer_place(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """A direct question: a place → what is there."""
    scene = _scene(rng, split, objects)
    thing = rng.choice(scene.things)
    return _answer("answer_place", [_image(scene)], QUESTIONS["place"].format(place=thing.place), thing.kind)


def answer_relation(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """A relational question: what stands beside a named object."""
    scene, thing, word, other = _neighbours(rng, split, objects)
    question = QUESTIONS["relation"].format(relation=word, kind=thing.kind)
    return _answer("answer_relation", [_image(scene)], question, other.kind)


def answer_twice(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """Which kind occurs twice."""
    scene, pair = _twins(rng, split, objects)
    return _answer("answer_twice", [_image(scene)], "which kind occurs twice ?", pair[0].kind)


def close(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """A close-up, or a crop from a scene at native resolution → its name."""
    color, shape, cell = rng.choice(triples(split))
    if rng.random() < 0.5:
        part = _image(close_up(rng, color, shape, rng.choice(marks(split))))
    else:
        scene = random_scene(rng, split, first=(color, shape, cell, rng.choice(marks(split))))
        thing = next(t for t in scene.things if t.cell == cell)
        part = _crop(scene, scene.box(thing), margin=rng.uniform(0, 0.2))
    return _answer("close", [part], "what is this ?", f"{COLORS[color]} {SHAPES[shape]}")


def watch(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """Every frame of a video by number: what ties frame numbers to what they show."""
    clip = _clip(rng, split)
    reply = " ".join(f"{i} {_raster(frame.things)}" for i, frame in enumerate(clip.frames, 1))
    return _lesson("watch", [_video(clip)], "caption of the frames .", reply)


def moment(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """One or two names → the frames that show them."""
    clip = _clip(rng, split)
    events = rng.sample(clip.events, rng.randint(1, min(2, len(clip.events))))
    names = " and the ".join(event.thing.kind for event in events)
    return _frames("moment", clip, f"find the moment when the {names} appears .", events)


def moment_after(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """What comes after or before a named object → its name and frames."""
    clip, word, named, asked = _order(rng, split)
    return _frames("moment_after", clip, f"find the object {word} the {named.thing.kind} .", [asked])


def answer_after(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """A question about order: what comes after or before a named object."""
    clip, word, named, asked = _order(rng, split)
    return _answer("answer_after", [_video(clip)], QUESTIONS[word].format(kind=named.thing.kind), asked.thing.kind)


def story(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """The objects of a video in order of appearance."""
    clip = _clip(rng, split)
    reply = " then ".join(event.thing.kind for event in clip.events)
    return _lesson("story", [_video(clip)], "caption of the video .", reply)


def read_page(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """The words of a page from the top, and which row is highlighted."""
    page = _page(rng, split)
    words = " ".join(f"{place} {PAGE_WORDS[row.word]}" for place, row in zip(ROWS, page.rows, strict=True))
    reply = f"{words} highlighted {ROWS[page.highlighted]}"
    return _lesson("read_page", [_image(page)], "read the page .", reply)


def point_row(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """The highlighted row, or a row by its word → word, row and box."""
    page = _page(rng, split)
    row = page.highlighted
    question = "find the highlighted row ."
    others = [i for i in range(3) if [r.word for r in page.rows].count(page.rows[i].word) == 1]
    if others and rng.random() < 0.5:
        row = rng.choice(others)
        question = f"find the row {PAGE_WORDS[page.rows[row].word]} ."
    reply = f"{PAGE_WORDS[page.rows[row].word]} {ROWS[row]} row {_boxes([page.box(row)])}"
    return _lesson("point_row", [_image(page)], question, reply, boxes=[page.box(row)])


def read_number(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """A row cut out of its page at native resolution → word and number."""
    page = _page(rng, split)
    row = rng.randrange(3)
    label = f"{PAGE_WORDS[page.rows[row].word]} {page.rows[row].number}"
    return _answer("read_number", [_crop(page, page.box(row), margin=rng.uniform(0, 0.12))], "read the row .", label)


def choose(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """Which of two to four texts fits the picture → its number."""
    scene = _scene(rng, split, objects)
    texts = [_raster(scene.things)]
    for _ in range(rng.randint(1, 3)):
        texts.append(_raster(_altered(rng, scene.things)) if rng.random() < 0.7 else _raster(random_scene(rng).things))
    if len(set(texts)) < len(texts):
        return choose(rng, split, objects)
    right = texts[0]
    rng.shuffle(texts)
    listed = " ".join(f"{i} : {text} ;" for i, text in enumerate(texts, 1))
    question = f"{listed} which caption matches ?"
    return _answer("choose", [_image(scene)], question, str(texts.index(right) + 1))


LESSONS: dict[str, Callable[[random.Random, Split, Objects], Lesson]] = {
    function.__name__: function
    for function in (
        describe,
        point,
        locate,
        point_place,
        point_relation,
        point_twice,
        where,
        answer_place,
        answer_relation,
        answer_twice,
        close,
        watch,
        moment,
        moment_after,
        answer_after,
        story,
        read_page,
        point_row,
        read_number,
        choose,
    )
}
"""Name → lesson."""


def _lesson(name: str, parts: Sequence[Part], question: str, reply: str, **gold: Any) -> Lesson:
    chat = [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
    return Lesson(chat, reply, name, gold)


def _answer(name: str, parts: Sequence[Part], question: str, reply: str) -> Lesson:
    return _lesson(name, parts, question, reply, answer=reply)


def _pointing(name: str, scene: Picture, question: str, things: Sequence[Thing]) -> Lesson:
    named = " ".join(f"{thing.kind} {thing.place}" for thing in things)
    boxes = [scene.box(thing) for thing in things]
    return _lesson(name, [_image(scene)], question, f"{named} {_boxes(boxes)}", boxes=boxes)


def _frames(name: str, clip: Clip, question: str, events: Sequence[Event]) -> Lesson:
    named = " ".join(event.thing.kind for event in events)
    frames = tuple(sorted({frame for event in events for frame in event.frames}))
    reply = f"{named} {Cues(key_frames=frames).to_json(Modality.VIDEO)}"
    return _lesson(name, [_video(clip)], question, reply, frames=frames)


def _image(spec: Picture | Page) -> Part:
    return {"type": "image", "image": WorldImage(spec).load()}


def _crop(spec: Picture | Page, box: Box, margin: float) -> Part:
    return {"type": "image", "image": crop_box(WorldImage(spec).load(), box, margin=margin), "evidence": True}


def _video(clip: Clip) -> Part:
    return {"type": "video", "video": [WorldImage(frame).load() for frame in clip.frames], "fps": 2.0}


def _boxes(boxes: Sequence[Box]) -> str:
    return Cues(boxes=tuple(round_box(box) for box in boxes)).to_json(Modality.IMAGE)


def _raster(things: Sequence[Thing]) -> str:
    return " ".join(f"{thing.place} {thing.kind}" for thing in things)


def _unique(things: Sequence[Thing], key: Callable[[Thing], Any]) -> list[Thing]:
    values = [key(thing) for thing in things]
    return [thing for thing, value in zip(things, values, strict=True) if values.count(value) == 1]


def _scene(rng: random.Random, split: Split, objects: Objects) -> Picture:
    return random_scene(rng, split, count=rng.randint(*objects))


def _neighbours(rng: random.Random, split: Split, objects: Objects) -> tuple[Picture, Thing, str, Thing]:
    """A scene, an object, a relation word, and the object that stands so to it."""
    while True:
        scene = _scene(rng, split, objects)
        found = []
        for thing in scene.things:
            row, column = divmod(thing.cell, 3)
            for word, (dx, dy) in RELATIONS.items():
                inside = 0 <= column + dx < 3 and 0 <= row + dy < 3
                other = scene.at(3 * (row + dy) + column + dx) if inside else None
                if other is not None:
                    found.append((scene, thing, word, other))
        if found:
            return rng.choice(found)


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


def _clip(rng: random.Random, split: Split) -> Clip:
    color, shape, cell = rng.choice(triples(split, CORNER_CELLS))
    entries = fill(rng, split, [(color, shape, cell, rng.choice(marks(split)))], rng.randint(3, 4), cells=CORNER_CELLS)
    rng.shuffle(entries)
    return make_clip(rng, entries)


def _order(rng: random.Random, split: Split) -> tuple[Clip, str, Event, Event]:
    """A video, `after` or `before`, the object named, and the object asked for."""
    clip = _clip(rng, split)
    index = rng.randrange(len(clip.events) - 1)
    first, second = clip.events[index], clip.events[index + 1]
    return (clip, "after", first, second) if rng.random() < 0.5 else (clip, "before", second, first)


def _page(rng: random.Random, split: Split) -> Page:
    chosen = [rng.choice(labels(split)), *rng.sample(labels("train"), 2)]
    rng.shuffle(chosen)
    return make_page(rng, chosen, rng.randrange(3))


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
