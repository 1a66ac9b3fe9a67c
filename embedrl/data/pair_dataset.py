"""Rendered pairs by key: what a loader worker does for one sample."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from embedrl.data.render import RenderOptions, render, renders_raw
from embedrl.data.sources import PairSource
from embedrl.errors import DataError
from embedrl.tcot.store import content_hash
from embedrl.types import Chat, Pair, Side


class SampleKey(NamedTuple):
    """Which sample, and in which repetition.

    Attributes:
        source: Position of the data set in the mix.
        row: Row within the data set.
        draw: How many times the data set had been run through before: another draw gets other noise.
    """

    source: int
    row: int
    draw: int = 0


@dataclass
class Example:
    """One rendered pair.

    Attributes:
        query: The query as a chat.
        target: The target as a chat.
        negatives: Hard negatives as chats.
        query_key: `content_hash` of the query.
        target_key: `content_hash` of the target: equal ones are false negatives of each other.
        negative_keys: `content_hash` of each negative.
        dataset: Name of the data set in the mix.
        id: Name of the pair within it.
        score: `Pair.score`; NaN if there is none.
        negative_scores: `Pair.negative_scores`, of the negatives above; empty if there are none.
        raw_sides: Sides rendered without the T-CoT they should have had (`on_missing_tcot: raw`).
    """

    query: Chat
    target: Chat
    negatives: list[Chat]
    query_key: str
    target_key: str
    negative_keys: list[str]
    dataset: str
    id: str
    score: float = float("nan")
    negative_scores: list[float] = field(default_factory=list)
    raw_sides: int = 0


class PairDataset:
    """Rendered pairs of several data sets by key; implements `Rows`.

    An example is a pure function of its key and the seed, so a resumed run sees the same noise on the evidence.

    Args:
        sources: The data sets.
        options: How to render a side.
        seed: Seed of the noise on the evidence.
        max_negatives: Use at most this many hard negatives per pair, the first ones.
        names: Names of the data sets in errors and logs; None means `source.name`.
        target_options: How to render a target, or a negative; None: as a query.
    """

    def __init__(
        self,
        sources: Sequence[PairSource],
        options: RenderOptions,
        seed: int = 0,
        max_negatives: int = 0,
        names: Sequence[str] | None = None,
        target_options: RenderOptions | None = None,
    ) -> None:
        self.sources = list(sources)
        self.options = options
        self.target_options = options if target_options is None else target_options
        self.seed = seed
        self.max_negatives = max_negatives
        self.names = list(names) if names is not None else [source.name for source in sources]

    def __len__(self) -> int:
        """Number of pairs in all data sets together."""
        return sum(len(source) for source in self.sources)

    def __getitem__(self, key: SampleKey) -> Example:
        """The example for a key.

        Raises:
            DataError: If the row is bad; the message begins with `dataset/id`.
        """
        name = self.names[key.source]
        pair: Pair = self.sources[key.source][key.row]
        negatives = pair.negatives[: self.max_negatives]
        rng = random.Random(f"{self.seed}/{key.source}/{key.row}/{key.draw}")  # a string: hashed the same everywhere

        def chat(side: Side, role: str, options: RenderOptions) -> Chat:
            return render(side, options, rng, where=f"{name}/{pair.id} ({role})")

        chats = chat(pair.query, "query", self.options), chat(pair.target, "target", self.target_options)
        others = [chat(side, f"negative {i}", self.target_options) for i, side in enumerate(negatives)]
        target_key = content_hash(pair.target)  # its pictures have just been read: cheap now
        negative_keys = [content_hash(side) for side in negatives]
        if target_key in negative_keys:
            raise DataError(
                f"{name}/{pair.id} (negative {negative_keys.index(target_key)}): the same as the pair's target, so no "
                "negative: take it out of the row"
            )
        return Example(
            query=chats[0],
            target=chats[1],
            negatives=others,
            query_key=content_hash(pair.query),
            target_key=target_key,
            negative_keys=negative_keys,
            dataset=name,
            id=pair.id,
            score=float("nan") if pair.score is None else pair.score,
            negative_scores=list(pair.negative_scores[: len(negatives)]),
            raw_sides=renders_raw(pair.query, self.options)
            + sum(renders_raw(side, self.target_options) for side in (pair.target, *negatives)),
        )

    def after(self, key: SampleKey) -> SampleKey:
        """The key of the next row of the same data set."""
        return key._replace(row=(key.row + 1) % len(self.sources[key.source]))

    def named(self, key: SampleKey) -> tuple[str, str]:
        """Names of the data set and of the pair."""
        return self.names[key.source], pair_name(self.sources[key.source], key.row)


def pair_name(source: PairSource, row: int) -> str:
    """A pair's id; `row 7` if the row cannot be read."""
    try:
        return source[row].id
    except DataError:
        return f"row {row}"
