"""While EG-RL trains: measures again and again which pairs its policy can learn from. Source: RBF++ (2505.13307)."""

from __future__ import annotations

import math
import random
from dataclasses import asdict
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from embedrl.data.datamodules.egrl import EGRLDataModule
from embedrl.data.mix import check_labels
from embedrl.errors import ConfigError
from embedrl.rl.boundary import FEASIBLE, INFEASIBLE, Boundary, Difficulty, Values, fit_boundary, zone
from embedrl.rl.module import EGRLModule
from embedrl.rl.rollout_success import good_pairs, roll_out_pairs, share

AHEAD = 16
"""After this many batches a measurement holds: those before may have been fetched already."""


class KeepInPartialZone(Callback):
    """Keeps EG-RL's pairs where the policy succeeds in 10 to 90 % of its rollouts, as it moves.

    Every `every` steps a few pairs of each data set are rolled out, and the combination law (`embedrl boundary`) is
    fitted on how often each succeeds. 16 steps later (`AHEAD`) the data module, which draws `zone_choices` times as
    many blocks as a step needs, begins to take those whose predicted success lies in the zone. A data set whose pairs
    are all equally difficult is drawn as before.

    Args:
        difficulty: What is known of how difficult pairs are, such as `embedrl.data.world.WorldDifficulty`.
        every: Steps between measurements.
        pairs: Pairs of each data set that a measurement rolls out, up to rounding to steps of `data.batch_size`; each
            costs as much as a pair of a training step before its policy pass.

    Raises:
        ConfigError: If an option is out of its range.
    """

    def __init__(self, difficulty: Difficulty, every: int = 20, pairs: int = 16) -> None:
        if every < 1 or pairs < 2:
            raise ConfigError(f"KeepInPartialZone: every {every}, pairs {pairs}: give 1 or more, and 2 or more")
        self.difficulty, self.every, self.pairs = difficulty, every, pairs
        self.measured: list[tuple[int, dict[str, Boundary]]] = []
        """Steps, and what was measured before them: a law for each data set."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the data module what an interrupted run had measured.

        Raises:
            ConfigError: If this is no EG-RL recipe, or its data module has nothing to choose from.
        """
        if not isinstance(pl_module, EGRLModule) or not isinstance(self._data(trainer), EGRLDataModule):
            raise ConfigError("trainer.callbacks: KeepInPartialZone belongs to an EG-RL recipe")
        data = self._data(trainer)
        if data.zone_choices < 2:
            raise ConfigError("KeepInPartialZone: data.zone_choices is 1: give 2 or more, so that it can choose")
        data.zone.known = [self._known(step, laws) for step, laws in self.measured]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Measure, if it is time."""
        assert isinstance(pl_module, EGRLModule)
        step = pl_module.global_step // pl_module.inner_epochs
        if step % self.every or any(done == step for done, _ in self.measured):
            return
        laws, shares = {}, []
        data = self._data(trainer)
        for number, (name, row) in enumerate(zip(check_labels(data.mix), data.mix, strict=True)):
            rng = random.Random(f"zone/{pl_module.seed}/{step}/{number}")
            blocks = range(len(row.source) // data.block_size)
            count = min(len(blocks), max(1, round(self.pairs / data.block_size)))
            picked = rng.sample(blocks, count)
            rows = [i for block in picked for i in range(block * data.block_size, (block + 1) * data.block_size)]
            pairs = list(good_pairs(pl_module, name, row.source, rows).values())
            # A number that no step of the training has: other draws.
            results = roll_out_pairs(pl_module, pairs, -1 - step * len(data.mix) - number)
            successes = [share(attempts) for _, attempts in results]
            shares += successes
            if results:
                known = [self.difficulty(pairs[i].id) for i, _ in results]
                laws[name] = _law(known, np.array(successes), pl_module.group_size)
        self.measured.append((step, laws))
        data.zone.known.append(self._known(step, laws))
        if shares:
            figures = {"zone/success": sum(shares) / len(shares)}
            figures["zone/partial"] = sum(zone(share) == "partial" for share in shares) / len(shares)
            pl_module.log_dict(figures)

    def state_dict(self) -> dict[str, Any]:
        """What was measured."""
        return {"measured": [[step, {n: asdict(law) for n, law in laws.items()}] for step, laws in self.measured]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what an interrupted run had measured."""
        self.measured = [
            (step, {name: Boundary(**{**law, **_tuples(law)}) for name, law in laws.items()})
            for step, laws in state_dict["measured"]
        ]

    def _known(self, step: int, laws: dict[str, Boundary]) -> tuple[int, Any]:
        def predict(dataset: str, pair: str) -> float:
            if dataset not in laws:  # nothing of it could be measured: as good as any
                return (FEASIBLE + INFEASIBLE) / 2
            own = self.difficulty(pair)
            return float(laws[dataset].success(np.array([[own[name] for name in laws[dataset].names]]))[0])

        return step + AHEAD, predict

    @staticmethod
    def _data(trainer: Trainer) -> Any:
        return getattr(trainer, "datamodule", None)


def _tuples(law: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(law[name]) for name in ("names", "weights", "offsets")}


def _law(known: list[Any], wins: Values, rollouts: int) -> Boundary:
    """The law of a data set; a constant where its pairs are alike."""
    names = list(known[0])
    difficulties = np.array([[own[name] for name in names] for own in known])
    if len(known) > 1 and np.ptp(difficulties, axis=0).any():
        return fit_boundary(names, difficulties, wins * rollouts, np.full(len(wins), float(rollouts)))
    share = float(np.clip(wins.mean(), 1e-3, 1 - 1e-3))
    even = tuple(1 / len(names) for _ in names)
    offsets = tuple((difficulties.min(0) - 1).tolist())
    return Boundary(tuple(names), even, offsets, math.log(share / (1 - share)), 0.0, pairs=len(known))
