"""EG-RL's data: steps of pairs from one data set, and held-out T-CoT lessons. Source: Embed-RL §3.3."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch.utils.data import Dataset

from embedrl.data.datamodules.base import GeneratorDataModule
from embedrl.data.loader import ResumableLoader
from embedrl.data.mix import MixRow, check_labels
from embedrl.data.opened import open_pairs
from embedrl.data.pair_dataset import SampleKey
from embedrl.data.sampler import SubBatchSampler
from embedrl.data.sft_batches import LessonSource
from embedrl.errors import ConfigError
from embedrl.types import Pair
from embedrl.utils.ranges import check_least


@dataclass
class PairBatch:
    """The pairs of one EG-RL step on one process; where it is made, in a loader's worker, their pictures are opened.

    Attributes:
        pairs: This process's pairs; all are of the data set that the other processes draw from too.
        dataset: Its name.
        opened: The same pairs with their pictures in memory. `pairs` are what other processes are told: no pixels.

    Raises:
        DataError: If a picture is broken; the message begins with `dataset/id`.
    """

    pairs: list[Pair]
    dataset: str
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
    ) -> None:
        super().__init__(val, test, generate_batch_size, seed, num_workers)
        if not mix:
            raise ConfigError("data.mix is empty: give it at least one data set")
        sizes = {"batch_size": batch_size, "block_size": block_size, "steps_per_epoch": steps_per_epoch}
        check_least(1, {f"data.{name}": size for name, size in sizes.items()})
        if batch_size % block_size:
            raise ConfigError(f"data.batch_size {batch_size} is not a multiple of data.block_size {block_size}")
        self.batch_size, self.mix = batch_size, mix
        self.steps_per_epoch, self.block_size = steps_per_epoch, block_size

    def train_dataloader(self) -> ResumableLoader[PairBatch]:
        """Steps of pairs.

        Raises:
            ConfigError: If the batch size does not suit the mix.
        """
        names = check_labels(self.mix)
        sampler = SubBatchSampler(
            sizes=[len(row.source) // self.block_size for row in self.mix],
            weights=[row.weight for row in self.mix],
            is_video=[row.is_video for row in self.mix],
            batch_size=self.batch_size // self.block_size,
            sub_batch_size=self.batch_size // self.block_size,
            seed=self.seed,
            num_batches=self.steps_per_epoch,
            rank=self._current_trainer.global_rank,
            world_size=self._current_trainer.world_size,
            names=names,
        )
        return self._make_train_loader(_Blocks(self.mix, names, self.block_size), sampler, _batch)


class _Blocks(Dataset[tuple[str, list[Pair]]]):
    """The blocks of consecutive pairs of a mix by key."""

    def __init__(self, mix: list[MixRow], names: list[str], size: int) -> None:
        self.mix, self.names, self.size = mix, names, size

    def __getitem__(self, key: SampleKey) -> tuple[str, list[Pair]]:
        source, first = self.mix[key.source].source, key.row * self.size
        return self.names[key.source], [source[row] for row in range(first, first + self.size)]


def _batch(items: list[tuple[str, list[Pair]]]) -> PairBatch:
    return PairBatch([pair for _, block in items for pair in block], items[0][0])
