"""Which rows make up a batch: sub-batches of one data set each. Source: Embed-RL §3.1, B.1 (sub-batches, Table 5)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from embedrl.data.pair_dataset import SampleKey
from embedrl.errors import ConfigError


class SubBatchSampler(Sampler[list[SampleKey]]):
    """A batch sampler whose batches consist of sub-batches, each from one data set (hard in-batch negatives).

    A sub-batch's data set is drawn with probability ∝ weight × size; once a batch holds `max_video_sub_batches` from
    video data sets, the rest is drawn among the others. Each data set runs through its own shuffle without repetition
    and is shuffled anew when it is exhausted; a sub-batch never holds a row twice. The batches form one endless stream
    that depends on the seed alone: an epoch is a section of it, and every number of ranks sees the same global batches.
    Set `start` to the first batch of the stream that the next iteration yields.

    Args:
        sizes: Number of rows of each data set.
        weights: Weight of each data set; 0 leaves it out.
        is_video: Whether each data set counts against `max_video_sub_batches`.
        batch_size: Pairs in a global batch (all ranks together).
        sub_batch_size: Pairs in a sub-batch (all ranks together).
        max_video_sub_batches: At most this many video sub-batches per batch.
        seed: Seed of the draws and shuffles.
        num_batches: Batches per epoch; None means (rows of all data sets used) // batch_size.
        rank: This process: it gets its share of every sub-batch.
        world_size: Number of processes.
        names: Names of the data sets for errors; None numbers them.

    Raises:
        ConfigError: If the settings cannot be met; the message names the flag.

    Source: Embed-RL §3.1, B.1.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float],
        is_video: Sequence[bool],
        *,
        batch_size: int,
        sub_batch_size: int,
        max_video_sub_batches: int = 1,
        seed: int = 0,
        num_batches: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        names: Sequence[str] | None = None,
    ) -> None:
        self.sizes = list(sizes)
        self.is_video = list(is_video)
        self.batch_size = batch_size
        self.sub_batch_size = sub_batch_size
        self.max_video_sub_batches = max_video_sub_batches
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.names = list(names) if names is not None else [f"#{i}" for i in range(len(sizes))]
        self._check(weights)
        self._chances = [weight * size for weight, size in zip(weights, sizes, strict=True)]
        rows = sum(size for size, weight in zip(sizes, weights, strict=True) if weight > 0)
        self.num_batches = num_batches if num_batches is not None else rows // batch_size
        if self.num_batches < 1:
            raise ConfigError(
                f"an epoch has no batch: data.batch_size {batch_size}, {rows} rows in data.mix, "
                f"data.batches_per_epoch {num_batches}; lower the batch size or set batches_per_epoch"
            )
        self.start = 0

    def _check(self, weights: Sequence[float]) -> None:
        if self.sub_batch_size < 1 or self.batch_size < 1 or self.batch_size % self.sub_batch_size:
            raise ConfigError(
                f"data.batch_size {self.batch_size} is not a multiple of data.sub_batch_size {self.sub_batch_size}"
            )
        if self.sub_batch_size % self.world_size:
            raise ConfigError(
                f"data.sub_batch_size {self.sub_batch_size} is not a multiple of the {self.world_size} processes: "
                "every process takes an equal share of each sub-batch"
            )
        if self.seed < 0 or self.max_video_sub_batches < 0:
            raise ConfigError("data.seed and data.max_video_sub_batches must be 0 or more")
        for name, size, weight in zip(self.names, self.sizes, weights, strict=True):
            if not 0 <= weight < float("inf"):
                raise ConfigError(f"data.mix: weight {weight} of {name}: give a number from 0 on")
            if weight > 0 and size < self.sub_batch_size:
                raise ConfigError(
                    f"data.mix: {name} has {size} rows, fewer than data.sub_batch_size {self.sub_batch_size}, and "
                    "would repeat a row within a sub-batch: lower sub_batch_size, or give it weight 0"
                )
        used = [video for video, weight in zip(self.is_video, weights, strict=True) if weight > 0]
        if not used:
            raise ConfigError("data.mix: no data set with a weight above 0")
        if self.max_video_sub_batches == 0 and any(used):
            raise ConfigError("data.max_video_sub_batches is 0 but data.mix holds video data sets: give them weight 0")
        needed = self.batch_size // self.sub_batch_size
        if all(used) and needed > self.max_video_sub_batches:
            raise ConfigError(
                f"data.mix holds video data sets only and a batch needs {needed} sub-batches, but "
                f"data.max_video_sub_batches is {self.max_video_sub_batches}: raise it"
            )

    def __len__(self) -> int:
        """Batches per epoch."""
        return self.num_batches

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """This rank's share of an epoch of batches, from batch `start` of the stream on."""
        share = self.sub_batch_size // self.world_size
        mine = slice(self.rank * share, (self.rank + 1) * share)
        for batch in itertools.islice(self._stream(), self.start, self.start + self.num_batches):
            yield [
                SampleKey(dataset, int(row), int(draw))
                for dataset, rows in batch
                for row, draw in zip(*rows[:, mine], strict=True)
            ]

    def _stream(self) -> Iterator[list[tuple[int, NDArray[np.int64]]]]:
        """The endless global batches: lists of sub-batches (data set, its rows and draws `[2, sub-batch]`).

        Skipped batches are drawn as well: a million rows take a fraction of a second, and no state has to be saved.
        """
        rng = random.Random(f"{self.seed}/sub-batches")
        cursors = [self._rows(dataset) for dataset in range(len(self.sizes))]
        still = [0.0 if video else chance for video, chance in zip(self.is_video, self._chances, strict=True)]
        while True:
            batch, videos = [], 0
            for _ in range(self.batch_size // self.sub_batch_size):
                chances = self._chances if videos < self.max_video_sub_batches else still
                dataset = rng.choices(range(len(self.sizes)), chances)[0]
                videos += self.is_video[dataset]
                batch.append((dataset, next(cursors[dataset])))
            yield batch

    def _rows(self, dataset: int) -> Iterator[NDArray[np.int64]]:
        """The endless sub-batches of one data set: rows and draws, `[2, sub-batch]`."""
        rest = np.empty((2, 0), dtype=np.int64)
        for draw in itertools.count():
            rows = np.random.default_rng([self.seed, dataset, draw]).permutation(self.sizes[dataset])
            # A sub-batch may span two shuffles: the rows of its first part move to the end of the new shuffle.
            repeated = np.isin(rows, rest[0])
            rows = np.concatenate([rows[~repeated], rows[repeated]])
            table = np.concatenate([rest, [rows, np.full_like(rows, draw)]], axis=1)
            whole = table.shape[1] - table.shape[1] % self.sub_batch_size
            for i in range(0, whole, self.sub_batch_size):
                yield table[:, i : i + self.sub_batch_size]
            rest = table[:, whole:]
