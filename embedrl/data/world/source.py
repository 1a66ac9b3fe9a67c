"""The world as data sets: pairs to train on, and retrieval tasks to score with."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from embedrl.data.world.families import FAMILIES
from embedrl.data.world.samples import LARGEST_BLOCK, VERSION, alike_samples, make_sample, sample_of
from embedrl.data.world.scene import SPLITS, Split
from embedrl.data.world.teachers import RATES, Teacher, annotator, perfect
from embedrl.data.world.views import Needs, View, WorldSample
from embedrl.errors import ConfigError, DataError
from embedrl.types import Modality, Pair, RetrievalTask, Side

TEACHERS: tuple[Teacher, ...] = ("perfect", "annotator", "careful", "none")
_TRIES = 1000  # draws in a row without success after which a split is declared full


def check_choice(flag: str, value: str, known: Sequence[str]) -> None:
    """Check a name that a user gave.

    Raises:
        ConfigError: If it is not among the known ones.
    """
    if value not in known:
        raise ConfigError(f"{flag} is {value!r}: give one of {', '.join(known)}")


def write_up(view: View, teacher: Teacher, seed: int = 0) -> Side:
    """The side with a teacher's T-CoT; equal sides get equal T-CoTs.

    Args:
        view: The side as a teacher sees it.
        teacher: Who writes; `none` leaves it without a T-CoT.
        seed: Seed of the annotator.
    """
    if teacher == "none":
        return view.side()
    if teacher == "perfect":
        return view.side(perfect(view))
    side = view.side()
    return side.with_tcot(annotator(view, random.Random(f"{seed}/{side.key}"), RATES[teacher]))


def needs(pair_id: str) -> tuple[Needs, Needs]:
    """What retrieval needs of the query and of the target of a pair.

    Args:
        pair_id: A `Pair.id` of the world, e.g. `grounding-train-0-123`.

    Raises:
        DataError: If it is not such an id.
    """
    sample = sample_of(pair_id)
    return sample.query.needs, sample.target.needs


class WorldSource:
    """Pairs of one task family, drawn on the fly; implements `PairSource`.

    Args:
        family: A name in `FAMILIES`.
        split: `train`, `val`, `test` or `test2`: disjoint in seeds and in held-out combinations.
        size: Number of pairs; there is no limit.
        seed: Another seed gives other pairs.
        teacher: Who writes the T-CoTs: `perfect`, `annotator`, `careful` (see `RATES`) or `none`.
        negatives: Number of hard negatives per pair: like the target, but wrong.
        alike: Rows come in blocks of this many pairs whose answers share many words: hard negatives of one another, to
            be drawn together (`data.block_size`). 1 makes no blocks.
        gold: Whether pairs carry the evidence that retrieval needs (`Side.gold`), for rewards that compare with it.

    Raises:
        ConfigError: If a name is unknown or a number out of range.
    """

    def __init__(
        self,
        family: str,
        split: Split = "train",
        size: int = 20_000,
        seed: int = 0,
        teacher: Teacher = "perfect",
        negatives: int = 0,
        alike: int = 1,
        gold: bool = False,
    ) -> None:
        check_choice("family", family, tuple(FAMILIES))
        check_choice("split", split, SPLITS)
        check_choice("teacher", teacher, TEACHERS)
        if size < 1 or negatives < 0:
            raise ConfigError(f"size is {size}, negatives is {negatives}: give a size of 1 or more and no fewer than 0")
        if not 1 <= alike <= LARGEST_BLOCK:
            raise ConfigError(f"alike is {alike}: give 1 to {LARGEST_BLOCK}")
        self.family = family
        self.split = split
        self.size = size
        self.seed = seed
        self.teacher = teacher
        self.negatives = negatives
        self.alike = alike
        self.gold = gold

    @property
    def name(self) -> str:
        """Name of the data set."""
        return f"world/{self.family}"

    @property
    def modality(self) -> Modality:
        """Modality of the pairs' visual part."""
        return FAMILIES[self.family].modality

    def __len__(self) -> int:
        """Number of pairs."""
        return self.size

    def __getitem__(self, index: int) -> Pair:
        """The pair at a row.

        Raises:
            IndexError: If there is no such row.
        """
        if not 0 <= index < self.size:
            raise IndexError(f"{self.name} has {self.size} pairs, not a row {index}")
        if self.alike > 1:
            block, member = divmod(index, self.alike)
            index = alike_samples(self.family, self.split, self.seed, block, self.alike)[member]
        sample = make_sample(self.family, self.split, self.seed, index)
        pair_id = f"{self.family}-{self.split}-{self.seed}-{index}"
        rng = random.Random(f"world/{VERSION}/negatives/{pair_id}")
        return Pair(
            self._write_up(sample.query),
            self._write_up(sample.target),
            self.name,
            pair_id,
            tuple(
                write_up(_hard_candidate(self.family, self.split, rng, sample), self.teacher, self.seed)
                for _ in range(self.negatives)
            ),
        )

    def _write_up(self, view: View) -> Side:
        side = write_up(view, self.teacher, self.seed)
        return replace(side, gold=view.gold) if self.gold else side

    def __iter__(self) -> Iterator[Pair]:
        """All pairs in order."""
        return (self[index] for index in range(self.size))


def _hard_candidate(
    family: str, split: Split, rng: random.Random, sample: WorldSample, others: Sequence[WorldSample] = ()
) -> View:
    """A candidate like the sample's target that is wrong for it, and that makes no second right one for the others."""
    rules = FAMILIES[family]
    for _ in range(_TRIES):
        view, have = rules.decoy(rng, split, sample)
        if rules.fits(sample.want, have):
            continue
        rivals = [other for other in others if rules.fits(other.want, have)]
        if not rivals or all(other.target.side().key == view.side().key for other in rivals):
            return view
    raise DataError(f"world/{family}: no hard candidate is left in {split}: lower the number of queries or decoys")


@dataclass(frozen=True)
class WorldTask:
    """A retrieval task with its ground truth.

    Attributes:
        task: The task.
        query_needs: What retrieval needs of each query.
        candidate_needs: What retrieval needs of each candidate.
        ids: The pairs' ids, by query.
    """

    task: RetrievalTask
    query_needs: tuple[Needs, ...]
    candidate_needs: tuple[Needs, ...]
    ids: tuple[str, ...]


class WorldTasks:
    """One retrieval task per family; implements `TaskSource`.

    Each query has exactly one right candidate: the pool holds the targets of all queries and `decoys` hard candidates
    per query, each once, and a draw that would make a second candidate right is drawn again.

    Args:
        split: `val`, `test` or `test2` (`train` to look at overfitting).
        size: Queries per family.
        families: Names in `FAMILIES`; None means all.
        teacher: Who writes the T-CoTs.
        decoys: Hard candidates per query.
        seed: Another seed gives other tasks; queries are pairs of `WorldSource` with this split and seed.

    Raises:
        ConfigError: If a name is unknown or a number out of range.
    """

    def __init__(
        self,
        split: Split = "val",
        size: int = 128,
        families: Sequence[str] | None = None,
        teacher: Teacher = "perfect",
        decoys: int = 1,
        seed: int = 0,
    ) -> None:
        check_choice("split", split, SPLITS)
        check_choice("teacher", teacher, TEACHERS)
        for family in families or ():
            check_choice("families", family, tuple(FAMILIES))
        if size < 1 or decoys < 0:
            raise ConfigError(
                f"size is {size}, decoys is {decoys}: give a size of 1 or more and no fewer than 0 decoys"
            )
        self.split = split
        self.size = size
        self.families = tuple(families or FAMILIES)
        self.teacher = teacher
        self.decoys = decoys
        self.seed = seed

    def tasks(self) -> list[RetrievalTask]:
        """The tasks, named after their families."""
        return [self.task(family).task for family in self.families]

    def task(self, family: str) -> WorldTask:
        """One family's task, with its needs and ids.

        Raises:
            DataError: If the split has no room for so many unambiguous queries.
        """
        samples, ids = self._queries(family)
        views: dict[str, View] = {}
        positions: dict[str, int] = {}
        qrels = []
        for sample in samples:
            key = sample.target.side().key
            views.setdefault(key, sample.target)
            qrels.append({positions.setdefault(key, len(positions)): 1.0})
        rng = random.Random(f"world/{VERSION}/decoys/{family}/{self.split}/{self.seed}")
        for sample in samples:
            for _ in range(self.decoys):
                view = _hard_candidate(family, self.split, rng, sample, samples)
                views.setdefault(view.side().key, view)
        return WorldTask(
            RetrievalTask(
                family,
                [write_up(sample.query, self.teacher, self.seed) for sample in samples],
                [write_up(view, self.teacher, self.seed) for view in views.values()],
                qrels,
                version=f"world-{VERSION}",
            ),
            tuple(sample.query.needs for sample in samples),
            tuple(view.needs for view in views.values()),
            tuple(ids),
        )

    def _queries(self, family: str) -> tuple[list[WorldSample], list[str]]:
        """The first `size` pairs of which no two are right for one another's query, and their ids."""
        rules = FAMILIES[family]
        samples: list[WorldSample] = []
        ids: list[str] = []
        index = missed = 0
        while len(samples) < self.size:
            new = make_sample(family, self.split, self.seed, index)
            rivals = [s for s in samples if rules.fits(s.want, new.have) or rules.fits(new.want, s.have)]
            if not rivals or all(s.target.side().key == new.target.side().key for s in rivals):
                samples.append(new)
                ids.append(f"{family}-{self.split}-{self.seed}-{index}")
                missed = 0
            elif (missed := missed + 1) == _TRIES:
                raise DataError(
                    f"world/{family}: {self.split} has no room for {self.size} unambiguous queries: lower size"
                )
            index += 1
        return samples, ids
