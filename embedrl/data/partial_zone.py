"""A draw that prefers pairs at which a policy neither always fails nor always succeeds. Source: RBF++ (2505.13307)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

from torch.utils.data import Sampler

from embedrl.data.pair_dataset import SampleKey
from embedrl.data.sampler import SubBatchSampler

Predict = Callable[[str, str], float]
"""From a data set's name and a pair's id to how often its rollouts are expected to succeed."""


class PartialZone:
    """Which of the blocks that were drawn are taken, from what was known of the policy at that batch.

    What is learned about the policy holds from a batch that no loader has fetched yet. So the order depends on neither
    the number of workers nor on where a run was interrupted.

    Args:
        low: Success at which the zone begins.
        high: Success at which it ends.

    Attributes:
        known: From which batch on which prediction holds, in order.
    """

    def __init__(self, low: float = 0.1, high: float = 0.9) -> None:
        self.low, self.high = low, high
        self.known: list[tuple[int, Predict]] = []

    def choose(self, batch: int, dataset: str, blocks: Sequence[Sequence[str]], keep: int) -> list[int]:
        """The blocks to take: those inside the zone in the order they were drawn, then the nearest to it.

        Args:
            batch: Number of the batch.
            dataset: Name of their data set.
            blocks: The pairs' ids of each block.
            keep: How many to take.

        >>> zone = PartialZone()
        >>> zone.choose(0, "x", [["a"], ["b"], ["c"]], 2)
        [0, 1]
        >>> zone.known.append((5, lambda dataset, pair: {"a": 1.0, "b": 0.5, "c": 0.95}[pair]))
        >>> zone.choose(4, "x", [["a"], ["b"], ["c"]], 2), zone.choose(5, "x", [["a"], ["b"], ["c"]], 2)
        ([0, 1], [1, 2])
        """
        holding = [predict for first, predict in self.known if first <= batch]
        if not holding:
            return list(range(keep))

        def outside(ids: Sequence[str]) -> float:
            if not ids:  # of a block that cannot be read
                return 1.0
            success = sum(holding[-1](dataset, pair) for pair in ids) / len(ids)
            return max(self.low - success, success - self.high, 0.0)

        return sorted(range(len(blocks)), key=lambda i: outside(blocks[i]))[:keep]  # stable: of equals the first drawn


class ZonedSampler(Sampler[list[SampleKey]]):
    """Takes the blocks of each batch from several times as many, all of one data set.

    Args:
        drawn: Draws batches of several times `keep` blocks, those of all processes.
        keep: Blocks in a batch, all processes together.
        zone: Which are taken.
        names: Names of the data sets.
        ids: The pairs' ids of a block.
        rank: This process: it gets its share.
        world_size: Number of processes.
    """

    def __init__(
        self,
        drawn: SubBatchSampler,
        keep: int,
        zone: PartialZone,
        names: Sequence[str],
        ids: Callable[[SampleKey], list[str]],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.drawn, self.keep, self.zone, self.names, self.ids = drawn, keep, zone, names, ids
        share = keep // world_size
        self.mine = slice(rank * share, (rank + 1) * share)
        self.start = 0

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self.drawn)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """This rank's share of an epoch of batches, from batch `start` of the stream on."""
        self.drawn.start = self.start
        for number, keys in zip(itertools.count(self.start), self.drawn):
            name = self.names[keys[0].source]
            chosen = self.zone.choose(number, name, [self.ids(key) for key in keys], self.keep)
            yield [keys[i] for i in chosen][self.mine]
