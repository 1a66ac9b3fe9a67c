"""One side of a pair as a teacher sees it, and what retrieval needs of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from embedrl.data.world.image import WorldImage
from embedrl.data.world.page import Page
from embedrl.data.world.scene import Picture, Thing
from embedrl.data.world.video import Clip
from embedrl.data.world.vocabulary import ROWS
from embedrl.tcot.schema import Box
from embedrl.types import GoldEvidence, Modality, Side


@dataclass(frozen=True, slots=True)
class Item:
    """Something on a side that a teacher can point at.

    Attributes:
        name: What it is called, e.g. `red star`; on a text side a phrase of the text.
        where: Where it is, e.g. `at the top left`, `in frames 3 4`; empty on a text side.
        label: What an answer about it says.
        box: Its exact corners, 0..1000; None on a text side or in a video.
        frames: The frames that show it, 1-based.
    """

    name: str
    where: str
    label: str
    box: Box | None = None
    frames: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """One side, with everything that can be seen on it and what of it retrieval needs.

    Attributes:
        text: The side's text.
        items: All that can be pointed at.
        needed: Positions in `items` of what retrieval needs.
        thinking: What the perfect teacher observes.
        rethink: What the perfect teacher says retrieval needs.
        answer: The right answer.
        picture: The picture or page, if the side has one.
        clip: The video, if the side has one.
        cue_frames: The key frames retrieval needs, where they are not simply the needed items' frames.
    """

    text: str
    items: tuple[Item, ...]
    needed: tuple[int, ...]
    thinking: str
    rethink: str
    answer: str
    picture: Picture | Page | None = None
    clip: Clip | None = None
    cue_frames: tuple[int, ...] = ()

    @property
    def modality(self) -> Modality:
        """Modality of the side."""
        if self.clip is not None:
            return Modality.VIDEO
        return Modality.IMAGE if self.picture is not None else Modality.TEXT

    def side(self, tcot: str = "") -> Side:
        """The side itself."""
        images = () if self.picture is None else (WorldImage(self.picture),)
        frames = () if self.clip is None else tuple(WorldImage(frame) for frame in self.clip.frames)
        return Side(self.text, images, frames, tcot)

    @property
    def needs(self) -> Needs:
        """What retrieval needs of this side."""
        items = [self.items[i] for i in self.needed]
        frames = self.cue_frames or tuple(sorted({frame for item in items for frame in item.frames}))
        keywords = tuple(item.name for item in items) if self.modality is Modality.TEXT else ()
        return Needs(tuple(item.box for item in items if item.box is not None), frames, keywords, self.answer)

    @property
    def gold(self) -> GoldEvidence:
        """The evidence that retrieval needs of this side, and what it shows."""
        needs, modality = self.needs, self.modality
        return GoldEvidence(
            boxes=needs.boxes if modality is Modality.IMAGE else None,
            frames=needs.frames if modality is Modality.VIDEO else None,
            spans=needs.keywords if modality is Modality.TEXT else None,
            names=tuple(dict.fromkeys(self.items[i].name for i in self.needed)),
        )


@dataclass(frozen=True, slots=True)
class Needs:
    """The evidence and answer that retrieval needs of one side: the reference for a T-CoT's evidence.

    Attributes:
        boxes: Exact boxes, 0..1000; empty unless the side is a picture.
        frames: Key frames, 1-based, ascending; empty unless the side is a video.
        keywords: Key phrases; empty unless the side is a text.
        answer: The right answer.
    """

    boxes: tuple[Box, ...]
    frames: tuple[int, ...]
    keywords: tuple[str, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class WorldSample:
    """A pair before its T-CoTs are written, with the facts that decide relevance.

    Attributes:
        query: The query.
        target: Its target.
        want: The facts that the query asks for.
        have: The facts that are true of the target.
        memo: What the family needs to make hard candidates for this query.
    """

    query: View
    target: View
    want: frozenset[Any]
    have: frozenset[Any]
    memo: Any = None


def picture_items(picture: Picture, label: Callable[[Thing], str] = lambda thing: thing.kind) -> tuple[Item, ...]:
    """The objects of a picture as items; `label` says what an answer about an object would be."""
    return tuple(Item(t.kind, f"at the {t.place}", label(t), box=picture.box(t)) for t in picture.things)


def clip_items(clip: Clip) -> tuple[Item, ...]:
    """The objects of a video as items, in order of appearance."""
    return tuple(
        Item(e.thing.kind, f"in frames {' '.join(map(str, e.frames))}", e.thing.kind, frames=e.frames)
        for e in clip.events
    )


def page_items(page: Page) -> tuple[Item, ...]:
    """The rows of a page as items; numbers are not named, since the input does not show them."""
    names = [word for word, _ in page.contents]
    return tuple(Item(name, f"in the {ROWS[i]} row", name, box=page.box(i)) for i, name in enumerate(names))


def text_items(*names: str) -> tuple[Item, ...]:
    """Phrases of a text as items."""
    return tuple(Item(name, "", name) for name in names)
