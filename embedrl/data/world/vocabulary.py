"""Every word and template of the world's texts.

All texts are lower-case and closed: whatever a pair, a T-CoT or a lesson says is made of `words()`, the numbers
`NUMBERS`, the coordinates `COORDINATES`, the digits that count frames, and the T-CoT's tags and cue keys. A tokenizer
can be built from this file.
"""

from __future__ import annotations

COLORS: tuple[str, ...] = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "black")
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "diamond", "star", "cross")
PLACES: tuple[str, ...] = (
    "top left",
    "top center",
    "top right",
    "middle left",
    "middle center",
    "middle right",
    "bottom left",
    "bottom center",
    "bottom right",
)
"""Names of the nine cells in raster order; a video frame uses the four corners."""

RELATIONS: dict[str, tuple[int, int]] = {"right of": (1, 0), "left of": (-1, 0), "above": (0, -1), "below": (0, 1)}
"""Relation word → step (columns, rows) from the named object to the one asked about."""

PAGE_WORDS: tuple[str, ...] = (
    "invoice",
    "report",
    "letter",
    "ticket",
    "order",
    "memo",
    "budget",
    "menu",
    "recipe",
    "map",
    "permit",
    "notice",
)
"""Words that head a page's rows."""

ROWS: tuple[str, ...] = ("top", "middle", "bottom")
NUMBERS: tuple[str, ...] = tuple(str(n) for n in range(10, 100))
COORDINATE_STEP = 20
COORDINATES: tuple[int, ...] = tuple(range(0, 1001, COORDINATE_STEP))
"""The coordinates that texts may hold (0..1000 relative to the picture)."""

INSTRUCTIONS: dict[str, str] = {
    "cls": "which kind occurs twice ?",
    "i2t": "find the caption of this picture .",
    "moment": "find the moment when the {kind} appears .",
    "composed": "find this {kind} but {color} .",
    "grounding": "find the {phrase} .",
    "video_ret": "find the video : {caption} .",
    "t2i": "find the picture : {caption} .",
    "doc": "find the page : {word} {number} .",
}
"""Query text of each family; question families hold theirs in `QUESTIONS`."""

QUESTIONS: dict[str, str] = {
    "place": "what is at the {place} ?",
    "relation": "what is {relation} the {kind} ?",
    "after": "what comes after the {kind} ?",
    "before": "what comes before the {kind} ?",
}

_PROSE = (
    "a an and at of the this that is are in on to it there two one object objects picture page row frame frames video"
    " shows show appears appear appearing first then last next after before with but same mark other look find see"
    " here so only needed matters asked answer question caption which what where how many kind occurs twice three four"
    " five six highlighted word number read text query target words keywords seen left right above below comes when"
    " moment clip instead becomes become color shape has no nothing else main known by its close up background holds"
    " hold for from be must not all crop evidence box name tell tells points point place match matches"
    " choose best option empty yes another both names their order appearance small rows kinds matter asks places"
)
FUNCTION_WORDS: tuple[str, ...] = tuple(_PROSE.split())
"""Words used by T-CoTs and lessons besides the names above."""

PUNCTUATION: tuple[str, ...] = (".", ",", ":", ";", "?")


def words() -> tuple[str, ...]:
    """Every lower-case word and punctuation mark, sorted, each once; numbers and coordinates are not included."""
    texts = [*COLORS, *SHAPES, *PLACES, *RELATIONS, *PAGE_WORDS, *ROWS, *FUNCTION_WORDS]
    texts += [*INSTRUCTIONS.values(), *QUESTIONS.values()]
    vocabulary = {word for text in texts for word in text.split() if not word.startswith("{")}
    return tuple(sorted(vocabulary | set(PUNCTUATION)))


def kind(color: str, shape: str) -> str:
    """An object's name, e.g. `red star`."""
    return f"{color} {shape}"


def a(name: str) -> str:
    """A name with its article, e.g. `an orange star`."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
