"""Which neighbours of a query are hard negatives, and which are probably positives that nobody has labelled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from embedrl.errors import ConfigError
from embedrl.metrics.ranking import Blocks, rank


@dataclass(frozen=True)
class MiningOptions:
    """What counts as a hard negative.

    A neighbour must score below the ceiling: the positive's cosine minus `margin`, or `share` of it, if that is lower.
    Sources: NV-Retriever (arXiv 2407.15831), which keeps up to 95 % of the positive's score; Qwen3-VL-Embedding (arXiv
    2601.04720), which keeps pairs whose positive scores over a threshold.

    Attributes:
        negatives: At most this many for a pair, the most similar ones first.
        depth: How many of the best neighbours of a query to look at.
        first: Begin with this rank (0 is the nearest): the nearest are most often unlabelled positives.
        margin: Least distance to the positive's cosine; null sets no such bound.
        share: Greatest share of the positive's cosine; null sets no such bound.
        least_positive: Leave a pair as it is if its own positive scores lower: its label is doubtful. Null: no bound.
    """

    negatives: int = 4
    depth: int = 50
    first: int = 0
    margin: float | None = None
    share: float | None = 0.95
    least_positive: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a value is out of range.
        """
        for name, least in (("negatives", 1), ("depth", 1), ("first", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"--options.{name} is {getattr(self, name)}: give {least} or more")
        if self.first >= self.depth:
            raise ConfigError(f"--options.first {self.first} with depth {self.depth}: give a depth above it")
        if self.margin is not None and not 0 <= self.margin <= 2:
            raise ConfigError(f"--options.margin is {self.margin}: give a difference of cosines in 0..2, or null")
        if self.share is not None and not 0 < self.share <= 1:
            raise ConfigError(f"--options.share is {self.share}: give a share above 0, at most 1, or null")
        if self.least_positive is not None and not -1 <= self.least_positive <= 1:
            raise ConfigError(f"--options.least_positive is {self.least_positive}: give a cosine, or null")

    def ceiling(self, positive: float) -> float:
        """What a negative must stay below."""
        bounds = [positive]
        if self.margin is not None:
            bounds.append(positive - self.margin)
        if self.share is not None:
            bounds.append(positive - (1 - self.share) * abs(positive))
        return min(bounds)


@dataclass(frozen=True)
class Neighbours:
    """The neighbours of a pair's query.

    Attributes:
        score: Cosine of the query with its own target.
        negatives: Positions of the hard negatives among the candidates, with their cosines, the most similar first.
        above: The same of neighbours over the ceiling, probably unlabelled positives.
        doubtful: Whether the positive itself scores below `least_positive`.
        rank: How many candidates, known positives left out, score above the pair's target or equal to it, as far as
            `depth` shows.
    """

    score: float
    negatives: list[tuple[int, float]]
    above: list[tuple[int, float]]
    doubtful: bool
    rank: int


def find_neighbours(
    queries: Tensor, candidates: Blocks, own: Sequence[int], known: Sequence[set[int]], options: MiningOptions
) -> Iterator[Neighbours]:
    """The neighbours of every query, exactly.

    Args:
        queries: Unit vectors, `[queries, dim]`.
        candidates: Unit vectors of the corpus.
        own: Position of each query's target in the corpus.
        known: Positions of every known positive of each query, its own target among them.
        options: What counts as a hard negative.

    Raises:
        NonFiniteError: If a vector is NaN or infinite.
    """
    positive = torch.empty(len(queries))
    start = 0
    places = torch.tensor(own)
    for block in candidates.read():
        inside = ((places >= start) & (places < start + len(block))).nonzero().flatten()
        positive[inside] = (queries[inside] * block[places[inside] - start]).sum(1)
        start += len(block)
    most = max(len(positives) for positives in known)
    ranking = rank(queries, candidates, [{place: 1.0} for place in own], k=min(options.depth + most, candidates.rows))
    for i, (places_of, scores_of) in enumerate(zip(ranking.indices.tolist(), ranking.scores.tolist(), strict=True)):
        others = [pair for pair in zip(places_of, scores_of, strict=True) if pair[0] >= 0 and pair[0] not in known[i]]
        score = positive[i].item()
        ceiling, doubtful = options.ceiling(score), False
        if options.least_positive is not None:
            doubtful = score < options.least_positive
        looked_at = others[options.first : options.depth]
        kept = [] if doubtful else [pair for pair in looked_at if pair[1] < ceiling][: options.negatives]
        above = [pair for pair in looked_at if pair[1] >= ceiling]
        ahead = sum(value >= score for _, value in others[: options.depth])
        yield Neighbours(score, kept, above, doubtful, ahead)
