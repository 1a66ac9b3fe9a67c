"""Scores of the untrained model: a validation before the first step, logged like every other."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng


class ValidateAtStart(Callback):
    """Runs a whole validation at step 0, so that curves and pictures begin with the untrained model.

    `trainer.num_sanity_val_steps` cannot do this: it logs nothing. A resumed run is not validated again: its log has
    these scores already. Training is not affected: random state and the loop's counters are restored, no checkpoint is
    written, and the scores at step 0 are not considered for `best.ckpt`.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate."""
        if trainer.global_step or trainer.ckpt_path or not trainer.enable_validation:
            return
        loops: Any = trainer.fit_loop.epoch_loop
        connector: Any = trainer._logger_connector
        # What Lightning does before and after a validation between two steps; then the counters are reset.
        first_loop_iter = connector._first_loop_iter
        trainer.validating = True
        with isolate_rng():
            loops.val_loop.run()
        trainer.training = True
        connector._first_loop_iter = first_loop_iter
        loops.val_loop.batch_progress.reset()
