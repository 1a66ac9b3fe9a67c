"""Two teachers who write T-CoTs for a side.

The *perfect* teacher knows what retrieval needs: it names exactly that evidence and gives the right answer, and says
nothing that the model's input does not show (a mark's texture, a page's number). The *annotator* stands for an
off-the-shelf model: what it says is true of the side, but it was never told what retrieval needs, and its evidence is
often elsewhere or loose, at the rates of `Rates`. The T-CoT of a target is written without its query.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from embedrl.data.world.page import Page
from embedrl.data.world.scene import round_box
from embedrl.data.world.views import Item, View
from embedrl.tcot.parser import build
from embedrl.tcot.schema import Box
from embedrl.types import Modality

Teacher = Literal["perfect", "annotator", "careful", "none"]


@dataclass(frozen=True, slots=True)
class Rates:
    """How often the annotator makes each kind of error; each is a probability.

    The defaults model an annotator that sees well and does not know the purpose of its T-CoT: it seldom names the wrong
    thing, but mostly restates in general terms, and points at the whole picture every other time.

    Attributes:
        elsewhere: A needed item is replaced by another one of the side, also in the answer. Does not happen where the
            side has no other item.
        whole: A box is the whole picture; in a video, key frames are the first, middle and last frame.
        loose: A box is moved and stretched to an IoU of 0.5 to 0.8; in a video, the key frames are one frame late.
            Applies where `whole` did not.
        extra: Another item is pointed at as well.
        vague: The answer is a true but general restatement.
        broken: The T-CoT departs from the format.
    """

    elsewhere: float = 0.05
    whole: float = 0.50
    loose: float = 0.25
    extra: float = 0.20
    vague: float = 0.65
    broken: float = 0.03


RATES: dict[Teacher, Rates] = {"annotator": Rates(), "careful": Rates(whole=0.0, loose=0.0, vague=0.0)}
"""Annotators by name: `careful` writes like the generic one, but not in general terms or of loose boxes and frames."""

LOOSE_IOU = (0.5, 0.8)
"""Range of the IoU of a loose box with the exact one, before it is rounded to the texts' grid."""

_COUNTS = ("", "one", "two", "three", "four", "five", "six")


def perfect(view: View) -> str:
    """The T-CoT with exactly the evidence that retrieval needs."""
    needs = view.needs
    return build(
        view.modality,
        view.thinking,
        view.rethink,
        view.answer,
        keywords=needs.keywords,
        boxes=[round_box(box) for box in needs.boxes],
        frames=needs.frames,
    ).render()


def annotator(view: View, rng: random.Random, rates: Rates | None = None) -> str:
    """A generic T-CoT; see `Rates` for its errors.

    Args:
        view: The side.
        rng: Source of all choices.
        rates: The rates; None means the documented ones.
    """
    rates = rates or Rates()
    chosen, missed = _choose(view, rng, rates)
    items = [view.items[i] for i in chosen]
    shown = list(items)
    others = [item for i, item in enumerate(view.items) if i not in chosen]
    if others and rng.random() < rates.extra:
        shown.append(rng.choice(others))
    answer = " , ".join(dict.fromkeys(item.label for item in items)) if missed else view.answer
    if rng.random() < rates.vague:
        answer = _vague(view)
    text = build(
        view.modality,
        _observe(view, shown),
        f"the {items[0].name} matters .",
        answer,
        keywords=[item.name for item in shown],
        boxes=[round_box(_box(item, rng, rates)) for item in shown if item.box is not None],
        frames=_frames(view, shown, rng, rates) if view.clip is not None else (),
    ).render()
    return rng.choice(BREAKS)(text) if rng.random() < rates.broken else text


def _choose(view: View, rng: random.Random, rates: Rates) -> tuple[list[int], bool]:
    """The items the annotator points at, and whether a needed one was replaced."""
    spare = [i for i in range(len(view.items)) if i not in view.needed]
    chosen, missed = [], False
    for needed in view.needed:
        if spare and rng.random() < rates.elsewhere:
            chosen.append(spare.pop(rng.randrange(len(spare))))
            missed = True
        else:
            chosen.append(needed)
    return chosen, missed


def _observe(view: View, shown: list[Item]) -> str:
    if view.modality is Modality.TEXT:
        return f"the text names {' and '.join(item.name for item in shown)} ."
    subject = "video" if view.clip is not None else "picture"
    # The place first, as in the captions that the base learned from: it says where before what is there.
    return f"the {subject} shows {' and '.join(dict.fromkeys(f'{item.where} the {item.name}' for item in shown))} ."


def _vague(view: View) -> str:
    if view.modality is Modality.TEXT:
        return "a text"
    if isinstance(view.picture, Page):
        return "a page of three rows"
    count = len(view.items)
    subject = "video" if view.clip is not None else "picture"
    return f"a {subject} of {_COUNTS[count]} object{'s' * (count > 1)}"


def _box(item: Item, rng: random.Random, rates: Rates) -> Box:
    assert item.box is not None
    draw = rng.random()
    if draw < rates.whole:
        return (0.0, 0.0, 1000.0, 1000.0)
    return loosen(item.box, rng) if draw < rates.whole + rates.loose else item.box


def loosen(box: Box, rng: random.Random) -> Box:
    """A box whose corners are moved until its IoU with the given one lies in `LOOSE_IOU`."""
    width, height = box[2] - box[0], box[3] - box[1]
    while True:
        x1, x2 = (box[i] + width * rng.uniform(-0.3, 0.3) for i in (0, 2))
        y1, y2 = (box[i] + height * rng.uniform(-0.3, 0.3) for i in (1, 3))
        moved = (max(0.0, x1), max(0.0, y1), min(1000.0, x2), min(1000.0, y2))
        if LOOSE_IOU[0] <= iou(box, moved) <= LOOSE_IOU[1]:
            return moved


def iou(one: Box, two: Box) -> float:
    """Intersection over union of two boxes; 0 if either is empty."""
    across = min(one[2], two[2]) - max(one[0], two[0])
    down = min(one[3], two[3]) - max(one[1], two[1])
    shared = max(0.0, across) * max(0.0, down)
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, two))
    return shared / (areas - shared) if shared else 0.0


def _frames(view: View, items: list[Item], rng: random.Random, rates: Rates) -> list[int]:
    assert view.clip is not None
    length = len(view.clip.frames)
    draw = rng.random()
    if draw < rates.whole:
        return sorted({1, (length + 1) // 2, length})
    late = draw < rates.whole + rates.loose
    stretches = [item.frames for item in items] if not view.cue_frames else [item.frames[:1] for item in items]
    frames = {min(length, frame + late) for stretch in stretches for frame in stretch}
    return sorted(frames)


BREAKS: tuple[Callable[[str], str], ...] = (
    lambda text: text.removesuffix("</answer>"),
    lambda text: text.replace("rethink>", "rethinking>"),
    lambda text: (
        text.replace('"bbox_2d"', '"box"').replace('"key_frames"', '"frame"').replace('"text_keywords"', '"word"')
    ),
    lambda text: text[: text.index("{")] + text[text.index("}") + 1 :],
    lambda text: "here is the answer : " + text,
)
"""The ways in which the annotator breaks the format: each leaves at least one problem for the parser to find."""
