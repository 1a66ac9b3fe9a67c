"""Annotated pairs as lessons for a discriminator: which of numbered T-CoTs belongs to a side?"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from embedrl.data.sources import PairSource
from embedrl.errors import ConfigError, DataError, TCoTError
from embedrl.tcot.chat import side_of
from embedrl.tcot.matching import match_chat, match_prompt
from embedrl.tcot.parser import parse
from embedrl.tcot.prompts import Style
from embedrl.types import Lesson, Role, Side

_TRIES = 20  # rows drawn for each one that is needed, after which a data set is taken to have no others


@dataclass(frozen=True, slots=True)
class Note:
    """What a lesson needs of a side: no pictures.

    Attributes:
        text: The side's text.
        tcot: Its T-CoT.
        answer: The T-CoT's answer.
        key: `Side.key`.
    """

    text: str
    tcot: str
    answer: str
    key: str


@dataclass(frozen=True, slots=True)
class Match:
    """A side and numbered candidates, of which one belongs to it.

    Attributes:
        dataset: Name of the data set.
        id: Name of the pair.
        role: Role of the side that is asked about.
        anchor: That side.
        candidates: The candidates' T-CoTs.
        right: Position of the right one.
    """

    dataset: str
    id: str
    role: Role
    anchor: Note
    candidates: tuple[str, ...]
    right: int

    def prompt(self, style: Style) -> str:
        """The question, as the process reward asks it."""
        return match_prompt(self.role, self.anchor.text, self.anchor.tcot, self.candidates, style)


class MatchLessons:
    """Which of numbered T-CoTs belongs to a side? Teachers' T-CoTs as lessons for a discriminator; a `LessonSource`.

    The question is that of `embedrl.rl.ProcessReward`, of the same style. The right candidate stands at every place
    equally often, so that a place says nothing. The other candidates belong to other pairs of the data set: rows are
    drawn, and those whose answers share most words with the right one are taken. A pair whose answer, of either side,
    reads like the right one's is not among them: nobody could tell the two apart.

    Sources of one name hold the same pairs, written up by several teachers: each T-CoT of a lesson is one teacher's,
    drawn by chance. The first of them decides whose answers are alike, so the best teacher comes first.

    Args:
        sources: The data sets; every side must have a T-CoT.
        size: Number of lessons; lesson i is drawn by the seed and i.
        candidates: Fewest and most candidates of a question.
        pool: Most rows that are drawn for its negatives: the more, the more alike are its candidates.
        style: Style of the question.
        answers_first: So many lessons, the first ones, show the answers in place of whole T-CoTs: short ones to begin
            with, unless they are shuffled.
        limit: Use only this many pairs of every data set, the first ones; None means all.
        seed: Seed of the draw.

    Raises:
        ConfigError: If there is no source, a number is out of range, or sources of one name differ in length.
    """

    def __init__(
        self,
        sources: Sequence[PairSource],
        size: int,
        candidates: tuple[int, int] = (2, 6),
        pool: int = 16,
        style: Style = "full",
        answers_first: int = 0,
        limit: int | None = 2000,
        seed: int = 0,
    ) -> None:
        if not sources:
            raise ConfigError("match lessons need at least one source")
        fewest, most = candidates
        if not 2 <= fewest <= most:
            raise ConfigError(f"candidates is {list(candidates)}: give the fewest, 2 or more, and the most")
        if pool < most - 1:
            raise ConfigError(f"pool is {pool}: give at least the {most - 1} negatives that a question may have")
        if size < 1:
            raise ConfigError(f"size is {size}: give 1 or more")
        by_name: dict[str, list[PairSource]] = {}
        for source in sources:
            by_name.setdefault(source.name, []).append(source)
        for name, same in by_name.items():
            if len({len(source) for source in same}) > 1:
                raise ConfigError(f"the sources called {name} differ in length: they must hold the same pairs")
            if len(same[0]) < most:
                raise ConfigError(f"{name} has {len(same[0])} pairs: too few for {most} candidates")
        self.groups = list(by_name.values())
        self.sizes = [len(same[0]) if limit is None else min(limit, len(same[0])) for same in self.groups]
        self.size, self.candidates, self.pool, self.style = size, candidates, pool, style
        self.answers_first, self.seed = answers_first, seed
        self.name = ", ".join(by_name)
        self._read: dict[tuple[int, int, int], tuple[str, Note, Note]] = {}

    def __len__(self) -> int:
        """Number of lessons."""
        return self.size

    def __getitem__(self, index: int) -> Lesson:
        """Lesson `index`: the reply is the right candidate's number.

        Raises:
            DataError: If a side is broken or has no T-CoT, or the data set has no other answers; the message names it.
        """
        match = self.match(index)
        chat = match_chat(match.prompt(self.style))
        return Lesson(chat, str(match.right + 1), f"{match.dataset.rpartition('/')[2]}_match", _gold(match))

    def match(self, index: int) -> Match:
        """What lesson `index` asks. Raises as `__getitem__` does."""
        if not 0 <= index < self.size:
            raise IndexError(index)
        rng = random.Random(f"match/{self.seed}/{index}")
        group = index % len(self.groups)
        row, role = rng.randrange(self.sizes[group]), rng.choice(list(Role))
        count = rng.randint(*self.candidates)
        others = self._negatives(rng, group, row, role, count - 1)
        name, anchor = self._draw(rng, group, row, role)
        other = Role.TARGET if role is Role.QUERY else Role.QUERY
        notes = [self._draw(rng, group, number, other)[1] for number in (row, *others)]
        order = rng.sample(range(count), count)
        if index < self.answers_first:
            anchor, *notes = (replace(note, tcot=note.answer) for note in (anchor, *notes))
        shown = tuple(notes[i].tcot for i in order)
        return Match(self.groups[group][0].name, name, role, anchor, shown, order.index(0))

    def _draw(self, rng: random.Random, group: int, row: int, role: Role) -> tuple[str, Note]:
        """One teacher's note on a side, and the pair's id."""
        name, query, target = self._notes(group, rng.randrange(len(self.groups[group])), row)
        return name, query if role is Role.QUERY else target

    def _negatives(self, rng: random.Random, group: int, row: int, role: Role, count: int) -> list[int]:
        """Rows of other answers; of those drawn, the ones most like the right answer."""
        size, (name, *own) = self.sizes[group], self._notes(group, 0, row)
        drawn: dict[int, Counter[str]] = {}
        pool = rng.randint(count, self.pool)
        for _ in range(_TRIES * pool):
            number = rng.randrange(size)
            _, *sides = self._notes(group, 0, number)
            if any(mine.key == side.key or _words(mine) == _words(side) for mine, side in zip(own, sides, strict=True)):
                continue
            drawn[number] = Counter(_words(sides[role is Role.QUERY]))
            if len(drawn) == pool:
                break
        if len(drawn) < count:
            raise DataError(
                f"{self.groups[group][0].name}/{name}: {len(drawn)} pairs with other answers turned up, and {count} "
                "are needed; lower `candidates`"
            )
        right = Counter(_words(own[role is Role.QUERY]))
        return sorted(drawn, key=lambda number: -(drawn[number] & right).total())[:count]

    def _notes(self, group: int, version: int, row: int) -> tuple[str, Note, Note]:
        place = group, version, row
        if place not in self._read:
            pair = self.groups[group][version][row]
            where = f"{pair.dataset}/{pair.id}"
            notes = [_note(side_of(pair, role), f"{where} ({role})") for role in (Role.QUERY, Role.TARGET)]
            self._read[place] = (pair.id, *notes)  # type: ignore[assignment]
        return self._read[place]


def _gold(match: Match) -> dict[str, str]:
    return {"answer": str(match.right + 1)}


def _words(note: Note) -> list[str]:
    return note.answer.lower().split()


def _note(side: Side, where: str) -> Note:
    if not side.tcot.strip():
        raise TCoTError(f"{where}: no T-CoT to judge by: annotate the data set first")
    answer = parse(side.tcot, side.modality, len(side.frames) or None).tcot.answer
    return Note(side.text, side.tcot, answer, side.key)
