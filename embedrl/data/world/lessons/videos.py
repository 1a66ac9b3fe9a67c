"""Lessons on videos: describing, pointing at frames and answering."""

from __future__ import annotations

import random

from embedrl.data.world.lessons.parts import Objects, answering, make_lesson, raster, showing, video
from embedrl.data.world.scene import CORNER_CELLS, Split, fill, marks, triples
from embedrl.data.world.video import Clip, Event, make_clip
from embedrl.data.world.vocabulary import QUESTIONS
from embedrl.types import Lesson


def watch(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """Every frame of a video by number: what ties frame numbers to what they show."""
    clip = _clip(rng, split)
    reply = " ".join(f"{i} {raster(frame.things)}" for i, frame in enumerate(clip.frames, 1))
    return make_lesson("watch", [video(clip)], "caption of the frames .", reply)


def frame(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """A frame's number → what it shows."""
    clip = _clip(rng, split)
    number = rng.randint(1, len(clip.frames))
    things = clip.frames[number - 1].things
    return make_lesson("frame", [video(clip)], f"what is in frame {number} ?", " ".join(t.kind for t in things))


def when(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """A name → the numbers of the frames that show it."""
    clip = _clip(rng, split)
    event = rng.choice(clip.events)
    frames = " ".join(map(str, event.frames))
    return answering("when", [video(clip)], f"when is the {event.thing.kind} in the video ?", frames)


def moment(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """One or two names → the frames that show them."""
    clip = _clip(rng, split)
    events = rng.sample(clip.events, rng.randint(1, min(2, len(clip.events))))
    names = " and the ".join(event.thing.kind for event in events)
    return showing("moment", clip, f"find the moment when the {names} appears .", events)


def moment_after(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """What comes after or before a named object → its name and frames."""
    clip, word, named, asked = _order(rng, split)
    return showing("moment_after", clip, f"find the object {word} the {named.thing.kind} .", [asked])


def answer_after(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """A question about order: what comes after or before a named object."""
    clip, word, named, asked = _order(rng, split)
    return answering("answer_after", [video(clip)], QUESTIONS[word].format(kind=named.thing.kind), asked.thing.kind)


def story(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """The objects of a video in order of appearance."""
    clip = _clip(rng, split)
    reply = " then ".join(event.thing.kind for event in clip.events)
    return make_lesson("story", [video(clip)], "caption of the video .", reply)


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
