"""Task families over scenes: labels, questions, captions, and regions told apart by their mark alone."""

from __future__ import annotations

import random

from embedrl.data.world.scene import (
    ALL_CELLS,
    Picture,
    Split,
    Thing,
    allowed,
    close_up,
    fill,
    make_picture,
    marks,
    random_scene,
    triples,
)
from embedrl.data.world.views import Item, View, WorldSample, picture_items, text_items
from embedrl.data.world.vocabulary import COLORS, INSTRUCTIONS, PLACES, QUESTIONS, RELATIONS, SHAPES, a, kind

Entry = tuple[int, int, int, int]
"""(colour, shape, cell, mark) of an object."""

OTHER_COLOR = 0.2
"""Share of hard candidates that have the target's mark in another colour; the rest have another mark."""


def own_entry(rng: random.Random, split: Split) -> Entry:
    """An object whose triple and mark both belong to the split."""
    return (*rng.choice(triples(split)), rng.choice(marks(split)))


def label_target(name: str) -> View:
    """A kind's name as a text target."""
    return View(name, text_items(name), (0,), "the text names a kind .", "its color and shape matter .", name)


def label_decoy(rng: random.Random, split: Split, sample: WorldSample) -> tuple[View, frozenset[str]]:
    """The name of another object that the query shows."""
    name = rng.choice([item.name for item in sample.query.items if item.name not in sample.want])
    return label_target(name), frozenset({name})


def make_cls(rng: random.Random, split: Split) -> WorldSample:
    """Picture → the kind that occurs twice in it."""
    first = own_entry(rng, split)
    cells = [cell for cell in ALL_CELLS if cell != first[2] and allowed(split, first[0], first[1], cell)]
    second = (first[0], first[1], rng.choice(cells), rng.choice(marks(split)))
    picture = make_picture(rng, fill(rng, split, [first, second], rng.randrange(5, 7)))
    items = picture_items(picture)
    name = kind(COLORS[first[0]], SHAPES[first[1]])
    needed = tuple(i for i, item in enumerate(items) if item.name == name)
    one, two = (items[i].where for i in needed)
    query = View(
        INSTRUCTIONS["cls"],
        items,
        needed,
        f"{a(name)} is {one} and another {two} .",
        "the kind that occurs twice is asked .",
        name,
        picture,
    )
    return WorldSample(query, label_target(name), frozenset({name}), frozenset({name}))


def referred(rng: random.Random, split: Split, relational: bool) -> tuple[Picture, Thing, Thing | None, str]:
    """A scene, the object meant in it, and, for a relation, the object it is named by and the relation's words."""
    focus = own_entry(rng, split)
    if not relational:
        picture = make_picture(rng, fill(rng, split, [focus], rng.randrange(4, 7)))
        thing = picture.at(focus[2])
        assert thing is not None
        return picture, thing, None, ""
    row, column = divmod(focus[2], 3)
    options = [(words, row - dy, column - dx) for words, (dx, dy) in RELATIONS.items()]
    relation, row, column = rng.choice([o for o in options if 0 <= o[1] < 3 and 0 <= o[2] < 3])
    beside = row * 3 + column
    entries = fill(rng, split, [focus], 2, cells=(focus[2], beside))
    picture = make_picture(rng, fill(rng, split, entries, rng.randrange(4, 7)))
    thing, reference = picture.at(focus[2]), picture.at(beside)
    assert thing is not None
    assert reference is not None
    return picture, thing, reference, relation


def _observe(thing: Thing, reference: Thing | None, relation: str) -> str:
    if reference is None:
        return f"the {thing.kind} is at the {thing.place} ."
    return f"the {reference.kind} is at the {reference.place} . {relation} it is the {thing.kind} ."


def make_vqa(rng: random.Random, split: Split) -> WorldSample:
    """Picture and question → the name of the object at a place, or beside another object."""
    picture, thing, reference, relation = referred(rng, split, relational=rng.random() < 0.5)
    if reference is None:
        question = QUESTIONS["place"].format(place=thing.place)
    else:
        question = QUESTIONS["relation"].format(relation=relation, kind=reference.kind)
    query = View(
        question,
        picture_items(picture),
        (picture.things.index(thing),),
        _observe(thing, reference, relation),
        "the question asks for its name .",
        thing.kind,
        picture,
    )
    return WorldSample(query, label_target(thing.kind), frozenset({thing.kind}), frozenset({thing.kind}))


def close_up_target(picture: Picture) -> View:
    """A close-up as a target."""
    name = picture.things[0].kind
    item = Item(name, "in the close up", name, box=picture.box(picture.things[0]))
    return View("", (item,), (0,), f"a close up of {a(name)} .", "its kind and its mark matter .", name, picture)


def _appearance(picture: Picture) -> frozenset[tuple[int, int, int]]:
    return frozenset((t.color, t.shape, t.mark) for t in picture.things)


def make_grounding(rng: random.Random, split: Split) -> WorldSample:
    """Picture and phrase → close-up of the object meant."""
    picture, thing, reference, relation = referred(rng, split, relational=rng.random() < 0.5)
    phrase = thing.kind if reference is None else f"object {relation} the {reference.kind}"
    query = View(
        INSTRUCTIONS["grounding"].format(phrase=phrase),
        picture_items(picture),
        (picture.things.index(thing),),
        _observe(thing, reference, relation),
        f"find a close up of the {thing.kind} with the same mark .",
        thing.kind,
        picture,
    )
    target = close_up(rng, thing.color, thing.shape, thing.mark)
    appearance = (thing.color, thing.shape, thing.mark)
    return WorldSample(query, close_up_target(target), frozenset({appearance}), _appearance(target), appearance)


def make_composed(rng: random.Random, split: Split) -> WorldSample:
    """Picture and "this red star but blue" → close-up of a blue star with the red star's mark."""
    picture, thing, _, _ = referred(rng, split, relational=False)
    color = rng.choice([c for c in range(len(COLORS)) if c != thing.color])
    name = kind(COLORS[color], SHAPES[thing.shape])
    query = View(
        INSTRUCTIONS["composed"].format(kind=thing.kind, color=COLORS[color]),
        picture_items(picture, lambda t: kind(COLORS[color], SHAPES[t.shape])),
        (picture.things.index(thing),),
        f"the {thing.kind} is at the {thing.place} . it becomes {COLORS[color]} .",
        f"find a close up of {a(name)} with the same mark .",
        name,
        picture,
    )
    target = close_up(rng, color, thing.shape, thing.mark)
    appearance = (color, thing.shape, thing.mark)
    return WorldSample(query, close_up_target(target), frozenset({appearance}), _appearance(target), appearance)


def close_up_decoy(
    rng: random.Random, split: Split, sample: WorldSample
) -> tuple[View, frozenset[tuple[int, int, int]]]:
    """A close-up of the same kind with another mark, which only the crop shows; or with the mark in another colour."""
    other = close_up(rng, *altered_appearance(rng, split, sample.memo))
    return close_up_target(other), _appearance(other)


def altered_appearance(rng: random.Random, split: Split, appearance: tuple[int, int, int]) -> tuple[int, int, int]:
    """A (colour, shape, mark) with another mark, or sometimes another colour."""
    color, shape, mark = appearance
    if rng.random() < OTHER_COLOR:
        return (rng.choice([c for c in range(len(COLORS)) if c != color]), shape, mark)
    return (color, shape, rng.choice([m for m in marks(split) if m != mark]))


def _facts(picture: Picture) -> frozenset[tuple[str, str]]:
    return frozenset((t.kind, t.place) for t in picture.things)


def _caption(things: tuple[Thing, ...]) -> str:
    """What a caption says: the first two objects in reading order."""
    return " , ".join(f"{t.kind} {t.place}" for t in things[:2])


def _captioned(picture: Picture, text: str) -> View:
    first, second = picture.things[:2]
    return View(
        text,
        picture_items(picture, lambda t: f"{t.kind} {t.place}"),
        (0, 1),
        f"first comes the {first.kind} , then the {second.kind} .",
        "a caption names the first two objects .",
        _caption(picture.things),
        picture,
    )


def _caption_text(text: str, caption: str) -> View:
    mentions = [m.split() for m in caption.split(" , ")]
    names = [" ".join(words[:2]) for words in mentions]
    items = tuple(Item(n, "", " ".join(words)) for n, words in zip(names, mentions, strict=True))
    return View(
        text,
        items,
        (0, 1),
        f"the text names {a(names[0])} and {a(names[1])} .",
        "both and their places matter .",
        caption,
    )


def make_t2i(rng: random.Random, split: Split) -> WorldSample:
    """Caption → picture. A caption names the first two objects in reading order."""
    picture = random_scene(rng, split)
    caption = _caption(picture.things)
    query = _caption_text(INSTRUCTIONS["t2i"].format(caption=caption), caption)
    want = frozenset((t.kind, t.place) for t in picture.things[:2])
    return WorldSample(query, _captioned(picture, ""), want, _facts(picture), picture)


def make_i2t(rng: random.Random, split: Split) -> WorldSample:
    """Picture → caption; a caption is right if everything it says is true of the picture."""
    picture = random_scene(rng, split)
    caption = _caption(picture.things)
    have = frozenset((t.kind, t.place) for t in picture.things[:2])
    return WorldSample(
        _captioned(picture, INSTRUCTIONS["i2t"]), _caption_text(caption, caption), _facts(picture), have, picture
    )


def _altered(rng: random.Random, split: Split, picture: Picture) -> list[Entry]:
    """The picture's objects, one of the first two with another colour or shape."""
    entries = [(t.color, t.shape, t.cell, t.mark) for t in picture.things]
    kinds = {entry[:2] for entry in entries}
    while True:
        which = rng.randrange(2)
        color, shape, cell, mark = entries[which]
        if rng.random() < 0.5:
            color = rng.randrange(len(COLORS))
        else:
            shape = rng.randrange(len(SHAPES))
        changed = [*entries[:which], (color, shape, cell, mark), *entries[which + 1 :]]
        own = split == "train" or any(entry[:3] in set(triples(split)) for entry in changed)
        if (color, shape) not in kinds and allowed(split, color, shape, cell) and own:
            return changed


def t2i_decoy(rng: random.Random, split: Split, sample: WorldSample) -> tuple[View, frozenset[tuple[str, str]]]:
    """The same picture with one of the captioned objects changed, drawn anew."""
    picture = make_picture(rng, _altered(rng, split, sample.memo))
    return _captioned(picture, ""), _facts(picture)


def i2t_decoy(rng: random.Random, split: Split, sample: WorldSample) -> tuple[View, frozenset[tuple[str, str]]]:
    """The caption with one object changed."""
    entries = _altered(rng, split, sample.memo)[:2]
    mentions = [(kind(COLORS[color], SHAPES[shape]), PLACES[cell]) for color, shape, cell, _ in entries]
    caption = " , ".join(" ".join(mention) for mention in mentions)
    return _caption_text(caption, caption), frozenset(mentions)
