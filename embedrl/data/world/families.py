"""The task families: their pairs, what makes a candidate right, and hard candidates.

| family | query → target | what decides |
|---|---|---|
| `cls` | picture → name of the kind that occurs twice | finding both |
| `vqa` | picture + question → name | finding the place, or the neighbour |
| `t2i`, `i2t` | caption ↔ picture | the first two objects in reading order, which captions name |
| `composed` | picture + "this red star but blue" → close-up | the mark in the crop |
| `grounding` | picture + phrase → close-up | the mark in the crop |
| `video_qa` | video + question → name | the event after or before another |
| `video_ret` | order of events → video | the order |
| `moment` | video + event → clip | the mark in the key frames |
| `doc` | word and number → page | the number in the crop of the highlighted row |
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from embedrl.data.world.page import Page, labels, make_page
from embedrl.data.world.scene import CORNER_CELLS, Split, fill, marks, triples
from embedrl.data.world.scene_families import (
    Entry,
    altered_appearance,
    close_up_decoy,
    i2t_decoy,
    label_decoy,
    label_target,
    make_cls,
    make_composed,
    make_grounding,
    make_i2t,
    make_t2i,
    make_vqa,
    t2i_decoy,
)
from embedrl.data.world.video import Clip, make_clip
from embedrl.data.world.views import Item, View, WorldSample, clip_items, page_items, text_items
from embedrl.data.world.vocabulary import INSTRUCTIONS, PAGE_WORDS, QUESTIONS, ROWS
from embedrl.types import Modality

Make = Callable[[random.Random, Split], WorldSample]
Decoy = Callable[[random.Random, Split, WorldSample], tuple[View, frozenset[Any]]]

CLIP_LENGTH = 3
"""Frames of a moment's target."""


@dataclass(frozen=True, slots=True)
class Family:
    """One task family.

    Attributes:
        make: Draws a pair.
        decoy: Draws a candidate that is like the target but wrong, and the facts that are true of it.
        modality: Modality of the visual part.
        reverse: Whether the target's facts must be among the query's, rather than the other way round.
    """

    make: Make
    decoy: Decoy
    modality: Modality
    reverse: bool = False

    def fits(self, want: frozenset[Any], have: frozenset[Any]) -> bool:
        """Whether a candidate of which `have` is true is right for a query that asks for `want`."""
        return have <= want if self.reverse else want <= have


def _events(rng: random.Random, split: Split, count: int) -> list[Entry]:
    first = (*rng.choice(triples(split, CORNER_CELLS)), rng.choice(marks(split)))
    entries = fill(rng, split, [first], count, cells=CORNER_CELLS)
    rng.shuffle(entries)
    return entries


def _frames(item: Item) -> str:
    return " ".join(map(str, item.frames))


def make_video_qa(rng: random.Random, split: Split) -> WorldSample:
    """Video and question → what appears next after, or last before, another object."""
    clip = make_clip(rng, _events(rng, split, rng.randrange(3, 5)))
    items = clip_items(clip)
    known = rng.randrange(len(items) - 1)
    word, known, asked = ("after", known, known + 1) if rng.random() < 0.7 else ("before", known + 1, known)
    answer = items[asked].name
    query = View(
        QUESTIONS[word].format(kind=items[known].name),
        items,
        (asked,),
        f"{word} the {items[known].name} comes the {answer} in frames {_frames(items[asked])} .",
        "the question asks for its name .",
        answer,
        clip=clip,
    )
    return WorldSample(query, label_target(answer), frozenset({answer}), frozenset({answer}))


def _order(names: list[str]) -> frozenset[tuple[str, str]]:
    return frozenset((a, b) for i, a in enumerate(names) for b in names[i + 1 :])


def _story(clip: Clip) -> View:
    items = clip_items(clip)
    names = [item.name for item in items]
    return View(
        "",
        items,
        tuple(range(len(items))),
        "the video shows " + " , then ".join(f"the {name}" for name in names) + " .",
        "the order of appearance matters .",
        " , ".join(names),
        clip=clip,
        cue_frames=tuple(item.frames[0] for item in items),
    )


def make_video_ret(rng: random.Random, split: Split) -> WorldSample:
    """The objects in order of appearance → the video."""
    clip = make_clip(rng, _events(rng, split, 3))
    names = [event.thing.kind for event in clip.events]
    caption = " , then ".join(f"the {name}" for name in names)
    query = View(
        INSTRUCTIONS["video_ret"].format(caption=caption),
        text_items(*names),
        (0, 1, 2),
        "the video must show three objects .",
        "the order of appearance matters .",
        " , ".join(names),
    )
    return WorldSample(query, _story(clip), _order(names), _order(names), clip)


def video_ret_decoy(rng: random.Random, split: Split, sample: WorldSample) -> tuple[View, frozenset[tuple[str, str]]]:
    """The same objects in another order."""
    entries = [(e.thing.color, e.thing.shape, e.thing.cell, e.thing.mark) for e in sample.memo.events]
    turn = rng.randrange(1, 3)
    clip = make_clip(rng, [*entries[turn:], *entries[:turn]])
    return _story(clip), _order([event.thing.kind for event in clip.events])


def _moment_target(rng: random.Random, color: int, shape: int, mark: int) -> View:
    """A short clip of one object, there for two or three of its frames."""
    whole = make_clip(rng, [(color, shape, rng.choice(CORNER_CELLS), mark)], CLIP_LENGTH)
    clip = whole.without(rng.choice((0, 1, CLIP_LENGTH)))
    item = clip_items(clip)[0]
    thinking = f"the {item.name} appears in frames {_frames(item)} ."
    return View("", (item,), (0,), thinking, "its kind and its mark matter .", item.name, clip=clip)


def make_moment(rng: random.Random, split: Split) -> WorldSample:
    """Video and "when the red star appears" → a clip of a red star with the same mark."""
    clip = make_clip(rng, _events(rng, split, rng.randrange(3, 5)))
    items = clip_items(clip)
    which = rng.randrange(len(items))
    thing, name = clip.events[which].thing, items[which].name
    query = View(
        INSTRUCTIONS["moment"].format(kind=name),
        items,
        (which,),
        f"the {name} appears in frames {_frames(items[which])} .",
        f"find a clip of the {name} with the same mark .",
        name,
        clip=clip,
    )
    appearance = (thing.color, thing.shape, thing.mark)
    return WorldSample(
        query, _moment_target(rng, *appearance), frozenset({appearance}), frozenset({appearance}), appearance
    )


def moment_decoy(rng: random.Random, split: Split, sample: WorldSample) -> tuple[View, frozenset[tuple[int, int, int]]]:
    """A clip of the same kind with another mark, which only key frames tell from the target; or of another colour."""
    other = altered_appearance(rng, split, sample.memo)
    return _moment_target(rng, *other), frozenset({other})


def _page_target(page: Page) -> View:
    items = page_items(page)
    word = items[page.highlighted].name
    return View(
        "",
        items,
        (page.highlighted,),
        f"the highlighted row is {items[page.highlighted].where} . its word is {word} .",
        "the word and the small number in the row matter .",
        word,
        page,
    )


def _page(rng: random.Random, split: Split, label: tuple[int, int], trap: tuple[int, int] | None = None) -> Page:
    """A page whose highlighted row has the label; `trap` is the label of another row."""
    others = [label_ for label_ in rng.sample(labels("train"), 3) if label_ != label][:2]
    if trap is not None:
        others[0] = trap
    if split == "test2":  # a page of val would hold no label of test, and one of test would highlight it
        others[1] = rng.choice(labels("test"))
    highlighted = rng.randrange(len(ROWS))
    rng.shuffle(others)
    others.insert(highlighted, label)
    return make_page(rng, others, highlighted)


def make_doc(rng: random.Random, split: Split) -> WorldSample:
    """Word and number → the page whose highlighted row holds them."""
    label = rng.choice(labels(split))
    word, number = PAGE_WORDS[label[0]], str(label[1])
    query = View(
        INSTRUCTIONS["doc"].format(word=word, number=number),
        text_items(word, number),
        (0, 1),
        "the text names a word and a number .",
        "both must be in the highlighted row .",
        f"{word} {number}",
    )
    return WorldSample(query, _page_target(_page(rng, split, label)), frozenset({label}), frozenset({label}), label)


def doc_decoy(rng: random.Random, split: Split, sample: WorldSample) -> tuple[View, frozenset[tuple[int, int]]]:
    """A page highlighting the same word with another number; sometimes the label asked for is in another row."""
    label = rng.choice([other for other in labels(split) if other[0] == sample.memo[0] and other != sample.memo])
    page = _page(rng, split, label, trap=sample.memo if rng.random() < 0.3 else None)
    return _page_target(page), frozenset({label})


FAMILIES: dict[str, Family] = {
    "cls": Family(make_cls, label_decoy, Modality.IMAGE),
    "vqa": Family(make_vqa, label_decoy, Modality.IMAGE),
    "t2i": Family(make_t2i, t2i_decoy, Modality.IMAGE),
    "i2t": Family(make_i2t, i2t_decoy, Modality.IMAGE, reverse=True),
    "composed": Family(make_composed, close_up_decoy, Modality.IMAGE),
    "grounding": Family(make_grounding, close_up_decoy, Modality.IMAGE),
    "video_qa": Family(make_video_qa, label_decoy, Modality.VIDEO),
    "video_ret": Family(make_video_ret, video_ret_decoy, Modality.VIDEO),
    "moment": Family(make_moment, moment_decoy, Modality.VIDEO),
    "doc": Family(make_doc, doc_decoy, Modality.IMAGE),
}
