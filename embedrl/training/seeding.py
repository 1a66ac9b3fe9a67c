"""The randomness of a training step as a function of the step alone, so that a resumed run repeats it."""

from __future__ import annotations

import os
import secrets

import numpy as np
import torch
from lightning import LightningModule
from lightning.fabric.utilities.rank_zero import _get_rank

from embedrl.errors import ConfigError


def choose_seed(given: int | bool | None) -> int:
    """The number behind `--seed_everything`.

    Args:
        given: A number; `true` draws one, which the processes that Lightning starts are told.

    Raises:
        ConfigError: If there is no seed, or processes that others have started would each draw one.
    """
    if given is True:
        told = os.environ.get("PL_GLOBAL_SEED")
        if _get_rank() and "TORCHELASTIC_RUN_ID" not in os.environ and told:
            return int(told)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 or int(os.environ.get("SLURM_NTASKS", "1")) > 1:
            raise ConfigError(
                "--seed_everything true: the processes of this run would each draw another: give a number"
            )
        return secrets.randbelow(2**32)
    if given is None or given is False or not 0 <= given < 2**32:
        name = "null" if given is None else "false" if given is False else given
        raise ConfigError(
            f"--seed_everything {name}: what a run draws derives from its seed: give a number from 0 to {2**32 - 1}, "
            "or true to have one drawn"
        )
    return given


class StepRandomness:
    """Reseeds torch at the start of every batch from (seed, optimizer step, batch within the step, rank).

    Not from Lightning's number of the batch in its epoch: that goes on counting in a run that ended with an epoch and
    is then resumed.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int) -> None:
        self._seed, self._step, self._batch = seed, -1, 0

    def seed(self, module: LightningModule) -> None:
        """Call in `on_train_batch_start`."""
        self._batch = self._batch + 1 if module.global_step == self._step else 0
        self._step = module.global_step
        entropy = np.random.SeedSequence([self._seed, self._step, self._batch, module.global_rank])
        torch.manual_seed(int(entropy.generate_state(1, np.uint64)[0]))
