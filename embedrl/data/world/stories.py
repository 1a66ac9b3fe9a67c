"""Short stories of the world with pictures to place: lessons for an inserter."""

from __future__ import annotations

import random
from dataclasses import dataclass

from embedrl.data.inserter import NumberedPicture, Placement, inserter_chat, placement_reply
from embedrl.data.world.image import WorldImage
from embedrl.data.world.scene import SPLITS, Split, close_up, marks, triples
from embedrl.data.world.source import check_choice
from embedrl.data.world.vocabulary import COLORS, PLACES, SHAPES, a, kind
from embedrl.errors import ConfigError
from embedrl.tcot.prompts import Style
from embedrl.types import Lesson

SENTENCES = (2, 4)
"""Fewest and most sentences of a story."""

_FORMS = ("the {kind} is at the {place} .", "at the {place} there is {one} .", "look at the {kind} at the {place} .")


@dataclass(frozen=True)
class Story:
    """A question, the sentences of its answer, pictures, and where they belong.

    Attributes:
        question: The question.
        sentences: The sentences; each speaks of one object.
        pictures: Close-ups of single objects, in a random order.
        names: The object that each sentence speaks of.
        placements: The gold placement, in the order of the sentences, without pictures that no sentence speaks of.
    """

    question: str
    sentences: tuple[str, ...]
    names: tuple[str, ...]
    pictures: tuple[NumberedPicture, ...]
    placements: tuple[Placement, ...]


class WorldStories:
    """Lessons that teach to place pictures; implements `LessonSource`. Story `i` is a function of (split, seed, i).

    Args:
        size: Number of stories; there is no limit.
        split: `train`, `val` or `test`: disjoint in what they say of an object (colour, shape and place together).
        placed: Most pictures of a story that belong into it; the fewest is 0.
        unrelated: Most pictures of a story that no sentence speaks of; the fewest is 0.
        style: Style of the request.
        seed: Another seed gives other stories.

    Raises:
        ConfigError: If a name is unknown or a number out of range.
    """

    def __init__(
        self,
        size: int,
        split: Split = "train",
        placed: int = 3,
        unrelated: int = 1,
        style: Style = "brief",
        seed: int = 0,
    ) -> None:
        check_choice("split", split, SPLITS)
        if size < 1 or not 1 <= placed <= SENTENCES[1] or not 0 <= unrelated <= 6:
            raise ConfigError(
                f"size is {size}, placed {placed}, unrelated {unrelated}: give 1 or more, 1 to {SENTENCES[1]}, 0 to 6"
            )
        self.name = f"world/stories/{split}"
        self.size, self.split, self.placed, self.unrelated = size, split, placed, unrelated
        self.style, self.seed = style, seed

    def __len__(self) -> int:
        """Number of stories."""
        return self.size

    def __getitem__(self, index: int) -> Lesson:
        """Story `index` as a lesson; the reply goes through the sentences one by one, then gives the gold placement.

        `gold` holds what `score_placements` compares with.

        Raises:
            IndexError: If there is no such story.
        """
        story = self.story(index)
        chat = inserter_chat(story.question, story.sentences, story.pictures, self.style)
        gold = {
            "placements": story.placements,
            "images": [picture.number for picture in story.pictures],
            "sentences": len(story.sentences),
        }
        reply = f"<thinking> {thoughts(story)} </thinking>{placement_reply(story.placements)}"
        return Lesson(chat, reply, "insert", gold)

    def story(self, index: int) -> Story:
        """Story `index` with its gold placement.

        Raises:
            IndexError: If there is no such story.
        """
        if not 0 <= index < self.size:
            raise IndexError(f"{self.name} has {self.size} stories, not a story {index}")
        rng = random.Random(f"{self.name}/{self.seed}/{index}")
        count, unrelated = rng.randint(*SENTENCES), rng.randint(0, self.unrelated)
        things = self._things(rng, count + unrelated)
        told, others = things[:count], things[count:]
        sentences = tuple(_sentence(rng, *thing) for thing in told)
        spoken_of = sorted(rng.sample(range(count), rng.randint(0 if unrelated else 1, min(self.placed, count))))
        # A picture and the sentence that it belongs behind; 0 for none.
        shown = [(told[i], i + 1) for i in spoken_of] + [(thing, 0) for thing in others]
        rng.shuffle(shown)
        pictures, numbers = [], {}
        for number, ((color, shape, _), sentence) in enumerate(shown, 1):
            picture = close_up(rng, color, shape, rng.choice(marks(self.split)))
            pictures.append(NumberedPicture(number, kind(COLORS[color], SHAPES[shape]), WorldImage(picture).load()))
            numbers[sentence] = number
        question = f"what is at the {PLACES[told[0][2]]} ?"
        placements = tuple(Placement(numbers[i + 1], i + 1) for i in spoken_of)
        names = tuple(kind(COLORS[color], SHAPES[shape]) for color, shape, _ in told)
        return Story(question, sentences, names, tuple(pictures), placements)

    def _things(self, rng: random.Random, count: int) -> list[tuple[int, int, int]]:
        """Objects (colour, shape, cell) of the split, no kind twice."""
        kinds: dict[tuple[int, int], tuple[int, int, int]] = {}
        for thing in rng.sample(triples(self.split), len(triples(self.split))):
            kinds.setdefault(thing[:2], thing)
            if len(kinds) == count:
                break
        return list(kinds.values())


def thoughts(story: Story) -> str:
    """What a perfect inserter thinks: what each sentence (row) speaks of, and the picture of it.

    >>> thoughts(WorldStories(size=1).story(0))
    'row 1 blue square picture 2 . row 2 yellow triangle no picture .'
    """
    pictures = {one.sentence: f"picture {one.image}" for one in story.placements}
    rows = enumerate(story.names, 1)
    return " ".join(f"row {row} {name} {pictures.get(row, 'no picture')} ." for row, name in rows)


def _sentence(rng: random.Random, color: int, shape: int, cell: int) -> str:
    name = kind(COLORS[color], SHAPES[shape])
    return rng.choice(_FORMS).format(kind=name, one=a(name), place=PLACES[cell])
