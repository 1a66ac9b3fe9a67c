"""The randomness of a training step as a function of the step alone, so that a resumed run repeats it."""

from __future__ import annotations

import numpy as np
import torch
from lightning import LightningModule


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
