"""Which pairs EG-RL can learn from: how often a Reasoner's rollouts find their target. Source: Embed-RL §3.3, Acc_k."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.table import Table

from embedrl.data.mix import MixRow, check_labels
from embedrl.data.on_bad import BadSample
from embedrl.data.opened import open_pairs
from embedrl.data.pair_dataset import pair_name
from embedrl.data.rolled_out import RolledOut, RolledOutStore
from embedrl.data.sources import PairSource
from embedrl.distributed.collectives import gather_objects, rank, world_size
from embedrl.distributed.unshard import unsharded
from embedrl.errors import ConfigError, DataError
from embedrl.rl.module import EGRLModule
from embedrl.rl.rewards.comparison import compare_roles
from embedrl.rl.rewards.outcome import TIE
from embedrl.rl.rollout import LocalRollout, RolloutEngine
from embedrl.rl.step import make_prompts, make_step, roll_out
from embedrl.rl.types import RolloutStep
from embedrl.types import Pair, Role
from embedrl.utils.console import data_set_column, make_console
from embedrl.utils.record_store import RecordStore


@dataclass(frozen=True, slots=True)
class Score:
    """How often the rollouts of a pair's query find its target.

    Attributes:
        key: `<data set>/<id>`.
        dataset: Name of the data set.
        id: The pair's id.
        success: The share.
        rollouts: Rollouts of the query, as many as of the target.
        among: Pairs that competed.
    """

    key: str
    dataset: str
    id: str
    success: float
    rollouts: int
    among: int


class Scores(RecordStore[Score]):
    """Scores on disk, one JSON line each, in the form that `embedrl split --scores` reads."""

    def record(self, row: dict[str, Any]) -> Score:
        """See `RecordStore`."""
        return Score(**row)

    def problem(self, row: dict[str, Any]) -> str:
        """See `RecordStore`."""
        return "" if row.keys() == set(Score.__slots__) else f"holds {', '.join(row)}, not {', '.join(Score.__slots__)}"


class RolloutSuccess(Callback):
    """With `embedrl validate` on an EG-RL recipe: rolls out the pairs of a mix and writes how often each succeeds.

    Pairs of one data set compete in steps, as in training: `group_size` rollouts of every query and every target go
    through the frozen Embedder, and a query's rollout succeeds if the target rollout nearest to it is one of its own
    pair's. Ties count against it, and targets known to answer the same query do not compete. A pair with nothing to
    compete with has no score. Every step is on the disk before the next one begins. A bad pair is a matter of the data
    module's `on_bad`: it stops the run, or is left out, counted and named, and has no score.

    Args:
        mix: The pairs: a file with a list of {source, weight}, or the list. Their T-CoTs are not used.
        out: The file to write: JSON lines {dataset, id, success, ...}.
        batch_size: Pairs in a step, up to rounding; the more, the harder.
        block_size: Consecutive rows that compete: of a source that puts pairs side by side that are hard for one
            another. The blocks of a step are spread over the data set, in case it is sorted.
        resume: Continue an existing file: one of the same models, mix and options.
        rollouts: Where to write the queries' T-CoTs, and which of them succeeded, for `embedrl.data.StepLessons`; None:
            nowhere.

    Raises:
        ConfigError: If an option is out of its range, or a file is there already.
    """

    def __init__(
        self,
        mix: list[MixRow],
        out: Path,
        batch_size: int = 16,
        block_size: int = 1,
        resume: bool = False,
        rollouts: Path | None = None,
    ) -> None:
        self.names = check_labels(mix)
        if batch_size < 2 or block_size < 1 or batch_size % block_size:
            raise ConfigError(
                f"RolloutSuccess: batch_size {batch_size}, block_size {block_size}: give 2 or more, and a divisor of it"
            )
        self.mix, self.out, self.batch_size, self.block_size, self.resume = mix, out, batch_size, block_size, resume
        self.rollouts = rollouts
        self._ran = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See that the file is free, and that there is something to roll out with.

        Raises:
            ConfigError: If this is no `validate` of an EG-RL recipe, or the file is there already.
        """
        if stage != "validate" or not isinstance(pl_module, EGRLModule):
            raise ConfigError("trainer.callbacks: RolloutSuccess belongs to `embedrl validate` on an EG-RL recipe")
        for flag in ("out", "rollouts"):
            file = getattr(self, flag)
            if file is not None and file.exists() and not self.resume:
                raise ConfigError(
                    f"RolloutSuccess.{flag} {file}: is there already; give another name, or resume: true to go on with "
                    "it"
                )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Roll out step by step, write the scores, print a table."""
        assert isinstance(pl_module, EGRLModule)
        self._ran = True
        with ExitStack() as open_files:
            scores = rolled = None
            if trainer.is_global_zero:
                scores = open_files.enter_context(Scores(self.out))
                if self.rollouts is not None:
                    rolled = open_files.enter_context(RolledOutStore(self.rollouts))
            done = {score.key for score in scores.records()} if scores is not None else set()
            if rolled is not None:
                done &= {record.key for record in rolled.records()}
            known = set(gather_objects(sorted(done)))
            for number, (name, source, rows) in enumerate(self._steps()):
                pairs = good_pairs(pl_module, name, source, rows)
                if known.issuperset(_key(name, pair) for pair in pairs.values()):
                    continue
                places = list(pairs.items())
                for index, attempts in roll_out_pairs(pl_module, list(pairs.values()), number):
                    row, pair = places[index]
                    key = _key(name, pair)
                    if rolled is not None:  # first, since a pair with a score is finished
                        texts, successes = [one.tcot for one in attempts], [int(one.success) for one in attempts]
                        rolled.put(RolledOut(key, name, pair.id, row, texts, successes))
                    if scores is not None:
                        scores.put(Score(key, name, pair.id, share(attempts), pl_module.group_size, len(pairs)))
            if scores is not None:
                sizes = {name: len(row.source) for name, row in zip(self.names, self.mix, strict=True)}
                make_console().print(table_of(scores, sizes))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See that Lightning validated at all.

        Raises:
            ConfigError: If it did not.
        """
        if not self._ran:
            raise ConfigError("RolloutSuccess: nothing was validated: give the recipe data.val, even if of one lesson")

    def _steps(self) -> Iterator[tuple[str, PairSource, list[int]]]:
        for name, row in zip(self.names, self.mix, strict=True):
            for rows in steps(len(row.source), self.batch_size, self.block_size):
                yield name, row.source, rows


def steps(rows: int, batch_size: int, block_size: int) -> list[list[int]]:
    """The rows of a data set by step; every step has blocks from all over it.

    >>> steps(7, 4, 2)
    [[0, 1, 4, 5], [2, 3, 6]]
    """
    blocks = [range(first, min(first + block_size, rows)) for first in range(0, rows, block_size)]
    count = max(1, round(rows / batch_size))
    return [[row for block in blocks[step::count] for row in block] for step in range(count)]


def good_pairs(module: EGRLModule, name: str, source: PairSource, rows: Sequence[int]) -> dict[int, Pair]:
    """The pairs of a step that the models can read, by row; all processes call together, and get the same.

    Args:
        module: The models, and the data module that says what is done about a bad pair.
        name: Name of the data set.
        source: The data set.
        rows: The rows of the step.

    Raises:
        DataError: If a pair is bad and `on_bad` is `raise`.
        TooManyBadError: If there are more bad ones than the data module's `max_bad`.
    """
    if getattr(getattr(module.trainer, "datamodule", None), "on_bad", "raise") == "raise":
        return {row: source[row] for row in rows}
    check, own = module.pair_check(), set(rows[rank() :: world_size()])
    pairs: dict[int, Pair] = {}
    bad: dict[int, BadSample] = {}
    for row in rows:
        try:
            pairs[row] = source[row]
            if row in own:  # each process opens its part of the pictures
                check(*open_pairs([pairs[row]]))
        except DataError as error:
            bad[row] = BadSample.of(error, name, pair_name(source, row))
    bad = dict(gather_objects(list(bad.items())))
    module.skipped(list(bad.values()) if rank() == 0 else [])
    return {row: pair for row, pair in pairs.items() if row not in bad}


class Attempt(NamedTuple):
    """A T-CoT of a query, and whether its nearest target is its own pair's."""

    tcot: str
    success: bool


def share(attempts: Sequence[Attempt]) -> float:
    """How many of them succeed, in 0..1."""
    return sum(one.success for one in attempts) / len(attempts)


def roll_out_pairs(module: EGRLModule, pairs: Sequence[Pair], number: int) -> list[tuple[int, list[Attempt]]]:
    """Roll out both sides of pairs of one data set, distributed over processes; all call together.

    Args:
        module: The policy, the frozen Embedder, and how to roll out.
        pairs: The pairs.
        number: Number of the step: another one, other draws.

    Returns:
        The position and the attempts of every pair that has something to compete with.
    """
    if not pairs:
        return []
    first, last = (len(pairs) * at // world_size() for at in (rank(), rank() + 1))
    engine: RolloutEngine = module.engine or LocalRollout(module.generator, module.rollout)
    prompts = make_prompts(open_pairs(pairs[first:last]), first, module.style, module.generator.preprocessor())
    with unsharded(module.generator):
        rollouts = roll_out(engine, prompts, module.group_size, number)
        step = make_step(pairs, prompts, rollouts, module.embedder, module.device, module.seed)
    return sorted(gather_objects(sorted(attempts_of(step).items())))


def attempts_of(step: RolloutStep) -> dict[int, list[Attempt]]:
    """Of each pair's query rollouts (of this process), whether the nearest target rollout is its own pair's.

    Args:
        step: The rollouts of both sides and their vectors.
    """
    comparison = compare_roles(step, Role.QUERY, mask_duplicates=True)
    right, wrong = (
        comparison.similarity.masked_fill(~mask, -torch.inf).amax(1)
        for mask in (comparison.positive, comparison.negative)
    )
    made: dict[int, list[Attempt]] = defaultdict(list)
    for rollout, is_first in zip(comparison.anchors, (right > wrong + TIE).tolist(), strict=True):
        made[rollout.pair].append(Attempt(rollout.text, is_first))
    return made


def table_of(scores: Scores, sizes: dict[str, int]) -> Table:
    """The distribution of the scores, one row per data set.

    Args:
        scores: The scores.
        sizes: Number of pairs of each data set.
    """
    table = Table(
        data_set_column(), "pairs", "scored", "mean", "never", "10-90 %", "always", title="rollouts that succeed"
    )
    shares: dict[str, list[float]] = defaultdict(list)
    for score in scores.records():
        shares[score.dataset].append(score.success)
    for name, size in sizes.items():
        own = shares[name]
        middling = sum(0.1 <= share <= 0.9 for share in own)
        counts = [size, len(own), own.count(0.0), middling, own.count(1.0)]
        words = [f"{count:,}" for count in counts]
        table.add_row(name, *words[:2], f"{sum(own) / len(own):.2f}" if own else "-", *words[2:])
    return table


def _key(dataset: str, pair: Pair) -> str:
    return f"{dataset}/{pair.id}"
