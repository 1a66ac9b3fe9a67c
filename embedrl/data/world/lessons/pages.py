"""Lessons on pages: reading and pointing at rows."""

from __future__ import annotations

import random

from embedrl.data.world.lessons.parts import Objects, answering, boxes_text, crop, image, make_lesson
from embedrl.data.world.page import Page, labels, make_page
from embedrl.data.world.scene import Split
from embedrl.data.world.vocabulary import PAGE_WORDS, ROWS
from embedrl.types import Lesson


def read_page(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """The words of a page from the top, and which row is highlighted."""
    page = _page(rng, split)
    words = " ".join(f"{place} {PAGE_WORDS[row.word]}" for place, row in zip(ROWS, page.rows, strict=True))
    reply = f"{words} highlighted {ROWS[page.highlighted]}"
    return make_lesson("read_page", [image(page)], "read the page .", reply)


def point_row(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """The highlighted row, or a row by its word → word, row and box."""
    page = _page(rng, split)
    row = page.highlighted
    question = "find the highlighted row ."
    others = [i for i in range(3) if [r.word for r in page.rows].count(page.rows[i].word) == 1]
    if others and rng.random() < 0.5:
        row = rng.choice(others)
        question = f"find the row {PAGE_WORDS[page.rows[row].word]} ."
    reply = f"{PAGE_WORDS[page.rows[row].word]} {ROWS[row]} row {boxes_text([page.box(row)])}"
    return make_lesson("point_row", [image(page)], question, reply, boxes=[page.box(row)])


def read_number(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """A row cut out of its page at native resolution → word and number."""
    page = _page(rng, split)
    row = rng.randrange(3)
    label = f"{PAGE_WORDS[page.rows[row].word]} {page.rows[row].number}"
    return answering("read_number", [crop(page, page.box(row), margin=rng.uniform(0, 0.12))], "read the row .", label)


def read_digits(rng: random.Random, split: Split, objects: Objects) -> Lesson:
    """The same, with the number digit by digit: ten digits are learned sooner than ninety numbers."""
    page = _page(rng, split)
    row = rng.randrange(3)
    label = f"{PAGE_WORDS[page.rows[row].word]} {' '.join(str(page.rows[row].number))}"
    part = crop(page, page.box(row), margin=rng.uniform(0, 0.12))
    return answering("read_digits", [part], "what is the number in the row ?", label)


def _page(rng: random.Random, split: Split) -> Page:
    chosen = [rng.choice(labels(split)), *rng.sample(labels("train"), 2)]
    rng.shuffle(chosen)
    return make_page(rng, chosen, rng.randrange(3))
