"""EG-RL's data: steps of pairs from one data set, and held-out T-CoT lessons. Source: Embed-RL §3.3."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from embedrl.data.checked_rows import CheckedCollator, CheckedRows, Drawn
from embedrl.data.datamodules.base import GeneratorDataModule
from embedrl.data.loader import ResumableLoader
from embedrl.data.mix import MixRow, check_labels
from embedrl.data.on_bad import MAX_BAD, BadSample, OnBadMode
from embedrl.data.opened import open_pairs
from embedrl.data.pair_dataset import SampleKey, pair_name
from embedrl.data.partial_zone import PartialZone, ZonedSampler
from embedrl.data.sampler import SubBatchSampler
from embedrl.data.sft_batches import LessonSource
from embedrl.errors import ConfigError, DataError
from embedrl.types import Pair
from embedrl.utils.ranges import check_least


@dataclass
class PairBatch:
    """The pairs of one EG-RL step on one process; where it is made, in a loader's worker, their pictures are opened.

    Attributes:
        pairs: This process's pairs; all are of the data set that the other processes draw from too.
        dataset: Its name.
        skipped: The bad pairs that others took the place of.
        opened: The same pairs with their pictures in memory. `pairs` are what other processes are told: no pixels.

    Raises:
        DataError: If a picture is broken; the message begins with `dataset/id`.
    """

    pairs: list[Pair]
    dataset: str
    skipped: list[BadSample] = field(default_factory=list)
    opened: list[Pair] = field(init=False)

    def __post_init__(self) -> None:
        """Open the pictures, each once."""
        self.opened = open_pairs(self.pairs)


class EGRLDataModule(GeneratorDataModule):
    """Pairs to roll out for `fit`, every step from one data set; lessons to score on for `validate` and `test`.

    The T-CoTs of the training pairs are not used: the policy writes its own.

    Args:
        batch_size: Pairs in a step, all processes together.
        mix: The data sets: a list, or a file that holds one.
        val: The lessons of validation: T-CoTs of a reference teacher.
        test: The lessons of `test`.
        steps_per_epoch: Steps per epoch; None means the number of rows // batch_size.
        block_size: Consecutive rows that are drawn together, for sources whose neighbouring pairs are hard negatives of
            one another, such as `WorldSource(alike=…)`.
        generate_batch_size: Prompts that are answered at once in `validate` and `test`, per process.
        seed: Seed of the order of the pairs; None: the run's (`seed_everything`).
        num_workers: Loader processes; 0 loads in the training process.
        on_bad: A bad pair or lesson: `raise`, or `skip` it: the next block of the data set takes the place of a pair's,
            on the process that holds it, and scoring goes without a lesson; counted, logged, and named in the run
            folder's `skipped.jsonl`.
        max_bad: The most different bad pairs and lessons that `skip` leaves out; one more ends the run.
        zone_choices: Draw this many times as many blocks as a step needs, and take those in the policy's partial zone:
            for `embedrl.rl.KeepInPartialZone`. 1 takes what is drawn.

    Attributes:
        zone: What is known of the partial zone.

    Raises:
        ConfigError: If the mix is empty, or the batch size is not a multiple of the block size.
    """

    def __init__(
        self,
        batch_size: int,
        mix: list[MixRow],
        val: LessonSource | None = None,
        test: LessonSource | None = None,
        steps_per_epoch: int | None = None,
        block_size: int = 1,
        generate_batch_size: int = 32,
        seed: int | None = None,
        num_workers: int = 0,
        on_bad: OnBadMode = "raise",
        max_bad: int = MAX_BAD,
        zone_choices: int = 1,
    ) -> None:
        super().__init__(val, test, generate_batch_size, seed, num_workers, on_bad, max_bad)
        if not mix:
            raise ConfigError("data.mix is empty: give it at least one data set")
        sizes = {"batch_size": batch_size, "block_size": block_size, "steps_per_epoch": steps_per_epoch}
        sizes["zone_choices"] = zone_choices
        check_least(1, {f"data.{name}": size for name, size in sizes.items()})
        if batch_size % block_size:
            raise ConfigError(f"data.batch_size {batch_size} is not a multiple of data.block_size {block_size}")
        self.batch_size, self.mix = batch_size, mix
        self.steps_per_epoch, self.block_size = steps_per_epoch, block_size
        self.zone_choices, self.zone = zone_choices, PartialZone()

    def train_dataloader(self) -> ResumableLoader[PairBatch]:
        """Steps of pairs.

        Raises:
            ConfigError: If the batch size does not suit the mix.
        """
        names = check_labels(self.mix)
        blocks = _Blocks(self.mix, names, self.block_size)
        rows = CheckedRows(blocks, self.on_bad)
        # Before pairs are exchanged: a process that met a bad one later would leave the others waiting.
        module: Any = self._current_trainer.lightning_module if self.on_bad == "skip" else None
        check = _BlockCheck(module.pair_check() if hasattr(module, "pair_check") else None)
        return self._make_train_loader(rows, self._sampler(names, blocks), CheckedCollator(rows, check.batch, check))

    def _sampler(self, names: list[str], blocks: _Blocks) -> SubBatchSampler | ZonedSampler:
        rank, world_size = self._current_trainer.global_rank, self._current_trainer.world_size
        keep, zoned = self.batch_size // self.block_size, self.zone_choices > 1
        if zoned and keep % world_size:
            raise ConfigError(f"data.batch_size {self.batch_size} is not shared evenly by {world_size} processes")
        drawn = SubBatchSampler(
            sizes=[len(row.source) // self.block_size for row in self.mix],
            weights=[row.weight for row in self.mix],
            is_video=[row.is_video for row in self.mix],
            batch_size=keep * self.zone_choices,
            sub_batch_size=keep * self.zone_choices,
            seed=self.seed,
            num_batches=self.steps_per_epoch,
            rank=0 if zoned else rank,
            world_size=1 if zoned else world_size,
            names=names,
        )
        if not zoned:
            return drawn
        return ZonedSampler(drawn, keep, self.zone, names, blocks.ids, rank, world_size)


@dataclass(frozen=True)
class _Blocks:
    """The blocks of consecutive pairs of a mix by key; implements `Rows`."""

    mix: list[MixRow]
    names: list[str]
    size: int

    def __getitem__(self, key: SampleKey) -> tuple[str, list[Pair]]:
        source, first = self.mix[key.source].source, key.row * self.size
        return self.names[key.source], [source[row] for row in range(first, first + self.size)]

    def ids(self, key: SampleKey) -> list[str]:
        """The ids of a block's pairs; those that cannot be read are dealt with when they are loaded."""
        source, ids = self.mix[key.source].source, []
        for row in range(key.row * self.size, (key.row + 1) * self.size):
            with suppress(DataError):
                ids.append(source[row].id)
        return ids

    def after(self, key: SampleKey) -> SampleKey:
        return key._replace(row=(key.row + 1) % (len(self.mix[key.source].source) // self.size))

    def named(self, key: SampleKey) -> tuple[str, str]:
        """Names of the data set and of the block: its pair's or, of several, those of the first and the last."""
        source, first = self.mix[key.source].source, key.row * self.size
        names = [pair_name(source, row) for row in {first: 0, first + self.size - 1: 0}]
        return self.names[key.source], " to ".join(names)


@dataclass(frozen=True)
class _BlockCheck:
    """Opens the pictures of blocks and sees that the models can read them.

    Attributes:
        check_pair: Sees that the policy and the Embedder can read a pair; None leaves it to the training step.
    """

    check_pair: Callable[[Pair], None] | None

    def batch(self, blocks: list[tuple[str, list[Pair]]]) -> PairBatch:
        made = PairBatch([pair for _, block in blocks for pair in block], blocks[0][0])
        if self.check_pair is not None:
            for pair in made.opened:
                self.check_pair(pair)
        return made

    def __call__(self, drawn: Drawn[tuple[str, list[Pair]]]) -> None:
        if drawn.sample is not None:
            self.batch([drawn.sample])
