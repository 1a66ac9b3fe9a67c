"""Examples → micro-batches that a backbone can embed one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from embedrl.data.checked_rows import Drawn
from embedrl.data.inputs import BundlePreprocessor, GroupPreprocessor, ModelInputs, Preprocessor
from embedrl.data.on_bad import BadSample, OnBadMode
from embedrl.data.pair_dataset import Example
from embedrl.data.render import RenderOptions, render
from embedrl.errors import ConfigError, DataError
from embedrl.types import Chat, Side

NAN = float("nan")


@dataclass
class ContrastiveBatch:
    """What one rank embeds in one training step.

    Attributes:
        micro_batches: All sides of the batch, sorted by length and cut into micro-batches.
        order: Shape `[sides]`, long: row `i` of the concatenated vectors belongs to flat position `order[i]`.
            Flat positions are the queries, then the targets, then the negatives, each in the order of the pairs.
        num_pairs: Number of pairs, B.
        query_keys: Content hash of each query, length B.
        target_keys: Content hash of each target, length B.
        negative_counts: Number of hard negatives of each pair, length B.
        negative_keys: Content hash of each negative.
        datasets: Data set of each pair, length B.
        ids: Id of each pair, length B.
        scores: Graded label of each pair, length B; NaN where there is none.
        negative_scores: The same of each hard negative with its query.
        raw_sides: Number of sides rendered without the T-CoT they should have had.
        skipped: The bad rows that others took the place of.
    """

    micro_batches: list[ModelInputs]
    order: Tensor
    num_pairs: int
    query_keys: list[str]
    target_keys: list[str]
    negative_counts: list[int]
    negative_keys: list[str]
    datasets: list[str]
    ids: list[str]
    scores: list[float]
    negative_scores: list[float]
    raw_sides: int = 0
    skipped: list[BadSample] = field(default_factory=list)


class Place(NamedTuple):
    """Where a vector belongs in a list of tasks.

    Attributes:
        task: Position of the task.
        kind: Query or candidate.
        position: Position among the task's queries or candidates.
    """

    task: int
    kind: Literal["query", "candidate"]
    position: int


@dataclass
class EncodeBatch:
    """Sides to embed for scoring.

    Attributes:
        micro_batches: The sides, sorted by length and cut into micro-batches.
        order: Shape `[sides]`, long: row `i` of the concatenated vectors belongs to flat position `order[i]`.
        items: For each flat position, every place its vector belongs: a side that occurs twice is embedded once.
        bad: The bad sides by flat position. Something else is embedded in their places, because sharded models must run
            the same forward passes on every rank: those vectors mean nothing.
    """

    micro_batches: list[ModelInputs]
    order: Tensor
    items: list[list[Place]]
    bad: dict[int, BadSample] = field(default_factory=dict)


class EncodeSample(NamedTuple):
    """A rendered side, or a stand-in for a bad one.

    Attributes:
        chat: The side as a chat.
        places: The places its vector belongs.
        where: Its name for errors, such as `vqa/query 3`.
        bad: What is wrong with the side if the chat only stands in for it.
    """

    chat: Chat
    places: list[Place]
    where: str
    bad: BadSample | None = None

    @classmethod
    def stand_in(cls, error: DataError, places: list[Place], where: str) -> EncodeSample:
        """A text that any model can embed, in place of a bad side."""
        task, _, side = where.rpartition("/")
        chat = render(Side(text="left out"), RenderOptions(tcot="none"))
        return cls(chat, places, where, BadSample.of(error, task, side))


def micro_batches(
    chats: Sequence[Chat], names: Sequence[str], preprocessor: Preprocessor, count: int
) -> tuple[Iterator[ModelInputs], Tensor]:
    """Sort chats by length (stable) and process them in `count` micro-batches whose sizes differ by one at most.

    Sorting puts chats of like length together, so that little is padded.

    Args:
        chats: The chats, at least `count`.
        names: Name of each chat for errors.
        preprocessor: The backbone's preprocessor.
        count: Number of micro-batches.

    Returns:
        The micro-batches, each made when it is asked for, and `order` `[chats]`: row `i` of the concatenated outputs is
        chat `order[i]`.

    Raises:
        ConfigError: If there are fewer chats than micro-batches.
        DataError: If a chat cannot be processed; the message names it. Raised by the micro-batch that it is in.
    """
    if len(chats) < count:
        raise ConfigError(f"{len(chats)} sides cannot fill {count} micro-batches: raise data.micro_batch_size")
    with _naming(list(zip(chats, names, strict=True)), preprocessor):
        lengths = [preprocessor.length(chat) for chat in chats]
    order = sorted(range(len(chats)), key=lengths.__getitem__)
    cuts = [len(order) * i // count for i in range(count + 1)]
    batches = (_process([(chats[i], names[i]) for i in order[a:b]], preprocessor) for a, b in pairwise(cuts))
    return batches, torch.tensor(order, dtype=torch.long)


def _process(named: Sequence[tuple[Chat, str]], preprocessor: Preprocessor) -> ModelInputs:
    with _naming(named, preprocessor):
        return preprocessor([chat for chat, _ in named])


def group_micro_batches(
    chats: Sequence[Chat],
    keys: Sequence[str],
    names: Sequence[str],
    preprocessor: GroupPreprocessor,
    size: int,
    bundles: Sequence[int] | None = None,
) -> tuple[Iterable[ModelInputs], Tensor]:
    """As `micro_batches`, chats of one key being a group whose common beginning is computed once.

    Args:
        chats: The chats.
        keys: The group of each chat.
        names: Name of each chat for errors.
        preprocessor: The preprocessor of a backbone with `shares_prefix`.
        size: At most this many chats in a micro-batch.
        bundles: The bundle of each chat, for a `BundlePreprocessor`; None: there are none.

    Raises:
        DataError: If a chat cannot be processed; the message names it.
    """
    groups: dict[str, dict[int, list[int]]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, {}).setdefault(i if bundles is None else bundles[i], []).append(i)
    members = [[[chats[i] for i in bundle] for bundle in group.values()] for group in groups.values()]
    with _naming(list(zip(chats, names, strict=True)), preprocessor):
        if bundles is not None and isinstance(preprocessor, BundlePreprocessor):
            batches, order = preprocessor.bundles(members, size)
        else:
            batches, order = preprocessor.groups(
                [[chat for bundle in group for chat in bundle] for group in members], size
            )
    return batches, torch.tensor([i for group in groups.values() for bundle in group.values() for i in bundle])[order]


@contextmanager
def _naming(named: Sequence[tuple[Chat, str]], preprocessor: Preprocessor) -> Iterator[None]:
    """Put the name of the chat that caused an error in front of its message."""
    try:
        yield
    except DataError:
        for chat, name in named:
            try:
                preprocessor([chat])
            except DataError as error:
                raise DataError(f"{name}: {error}") from error
        raise


@dataclass
class ContrastiveCollator:
    """Makes a `ContrastiveBatch` of examples; runs in loader workers.

    Attributes:
        preprocessor: The backbone's preprocessor.
        micro_batch_size: At most this many sides go through the backbone at once.
        num_micro_batches: Cut every batch into this many instead of the fewest possible: sharded ranks must agree on
            the number of forward passes although they may hold differing numbers of negatives.
    """

    preprocessor: Preprocessor
    micro_batch_size: int
    num_micro_batches: int | None = None

    def __post_init__(self) -> None:
        """Check the size.

        Raises:
            ConfigError: If it is below 1.
        """
        _check_size(self.micro_batch_size)

    def __call__(self, examples: Sequence[Example]) -> ContrastiveBatch:
        """Collate examples.

        Raises:
            DataError: If a chat cannot be processed; the message names `dataset/id`.
        """
        named = _sides(examples)
        count = self.num_micro_batches or -(-len(named) // self.micro_batch_size)
        batches, order = micro_batches([c for c, _ in named], [n for _, n in named], self.preprocessor, count)
        return ContrastiveBatch(
            micro_batches=list(batches),
            order=order,
            num_pairs=len(examples),
            query_keys=[e.query_key for e in examples],
            target_keys=[e.target_key for e in examples],
            negative_counts=[len(e.negatives) for e in examples],
            negative_keys=[key for e in examples for key in e.negative_keys],
            datasets=[e.dataset for e in examples],
            ids=[e.id for e in examples],
            scores=[e.score for e in examples],
            negative_scores=[score for e in examples for score in e.negative_scores or [NAN] * len(e.negatives)],
            raw_sides=sum(e.raw_sides for e in examples),
        )

    def check(self, drawn: Drawn[Example]) -> None:
        """Process the sides of one example alone.

        Raises:
            DataError: If one cannot be processed; the message begins with `dataset/id`.
        """
        for chat, name in _sides([drawn.sample] if drawn.sample is not None else []):
            list(micro_batches([chat], [name], self.preprocessor, 1)[0])


@dataclass
class EncodeCollator:
    """Makes an `EncodeBatch` of rendered sides; runs in loader workers.

    Attributes:
        preprocessor: The backbone's preprocessor.
        micro_batch_size: At most this many sides go through the backbone at once.
        num_micro_batches: As for `ContrastiveCollator`.
        on_bad: A side that cannot be processed: `raise`, or `skip`, with which it is among the batch's `bad`.
    """

    preprocessor: Preprocessor
    micro_batch_size: int
    num_micro_batches: int | None = None
    on_bad: OnBadMode = "raise"

    def __post_init__(self) -> None:
        """Check the size.

        Raises:
            ConfigError: If it is below 1.
        """
        _check_size(self.micro_batch_size)

    def __call__(self, samples: Sequence[EncodeSample]) -> EncodeBatch:
        """Collate sides.

        Raises:
            DataError: If a side cannot be processed and `on_bad` is `raise`; the message names task and position.
        """
        try:
            return self._batch(samples)
        except DataError:
            if self.on_bad == "raise":
                raise
            return self._batch([self._checked(sample) for sample in samples])

    def _batch(self, samples: Sequence[EncodeSample]) -> EncodeBatch:
        count = self.num_micro_batches or -(-len(samples) // self.micro_batch_size)
        batches, order = micro_batches([s.chat for s in samples], [s.where for s in samples], self.preprocessor, count)
        bad = {i: sample.bad for i, sample in enumerate(samples) if sample.bad is not None}
        return EncodeBatch(list(batches), order, [s.places for s in samples], bad)

    def _checked(self, sample: EncodeSample) -> EncodeSample:
        try:
            list(micro_batches([sample.chat], [sample.where], self.preprocessor, 1)[0])
        except DataError as error:
            return EncodeSample.stand_in(error, sample.places, sample.where)
        return sample


def _sides(examples: Sequence[Example]) -> list[tuple[Chat, str]]:
    """The chats of examples in flat order, with their names for errors."""
    return [
        *((e.query, f"{e.dataset}/{e.id} (query)") for e in examples),
        *((e.target, f"{e.dataset}/{e.id} (target)") for e in examples),
        *((chat, f"{e.dataset}/{e.id} (negative {i})") for e in examples for i, chat in enumerate(e.negatives)),
    ]


def _check_size(micro_batch_size: int) -> None:
    if micro_batch_size < 1:
        raise ConfigError(f"data.micro_batch_size is {micro_batch_size}: give 1 or more")
