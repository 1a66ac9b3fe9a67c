"""The parts of lessons: pictures, questions, replies and the reference values of metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from embedrl.data.world.image import WorldImage
from embedrl.data.world.page import Page
from embedrl.data.world.scene import Picture, Thing, round_box
from embedrl.data.world.video import Clip, Event
from embedrl.tcot.evidence import crop_box
from embedrl.tcot.schema import Box, Cues
from embedrl.types import Lesson, Modality

Part = dict[str, Any]
Objects = tuple[int, int]
"""Fewest and most objects in a scene: fewer are easier to tell apart."""


def make_lesson(name: str, parts: Sequence[Part], question: str, reply: str, **gold: Any) -> Lesson:
    """A lesson with one user turn: pictures, then the question."""
    chat = [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
    return Lesson(chat, reply, name, gold)


def answering(name: str, parts: Sequence[Part], question: str, reply: str) -> Lesson:
    """A lesson whose whole reply is the answer."""
    return make_lesson(name, parts, question, reply, answer=reply)


def pointing(name: str, scene: Picture, question: str, things: Sequence[Thing]) -> Lesson:
    """A lesson whose reply names things with their places, then their boxes."""
    named = " ".join(f"{thing.kind} {thing.place}" for thing in things)
    boxes = [scene.box(thing) for thing in things]
    return make_lesson(name, [image(scene)], question, f"{named} {boxes_text(boxes)}", boxes=boxes)


def showing(name: str, clip: Clip, question: str, events: Sequence[Event]) -> Lesson:
    """A lesson whose reply names things, then the frames that show them."""
    named = " ".join(event.thing.kind for event in events)
    frames = tuple(sorted({frame for event in events for frame in event.frames}))
    reply = f"{named} {Cues(key_frames=frames).to_json(Modality.VIDEO)}"
    return make_lesson(name, [video(clip)], question, reply, frames=frames)


def image(spec: Picture | Page) -> Part:
    """A picture as the model's input sees it."""
    return {"type": "image", "image": WorldImage(spec).load()}


def crop(spec: Picture | Page, box: Box, margin: float) -> Part:
    """Evidence: a region at native resolution."""
    return {"type": "image", "image": crop_box(WorldImage(spec).load(), box, margin=margin), "evidence": True}


def video(clip: Clip) -> Part:
    """A video at two frames per second."""
    return {"type": "video", "video": [WorldImage(frame).load() for frame in clip.frames], "fps": 2.0}


def boxes_text(boxes: Sequence[Box]) -> str:
    """The cue object of boxes, on the grid of coordinates that texts use."""
    return Cues(boxes=tuple(round_box(box) for box in boxes)).to_json(Modality.IMAGE)


def raster(things: Sequence[Thing]) -> str:
    """Every object, its place first."""
    return " ".join(f"{thing.place} {thing.kind}" for thing in things)
