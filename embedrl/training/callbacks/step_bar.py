"""The progress bar of a terminal."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.progress_bar import get_standard_metrics

from embedrl.training.progress import total_steps


class StepBar(RichProgressBar):
    """Lightning's bar, counting the optimizer steps of the whole run, with the time that is left for it.

    Lightning's own starts anew each epoch. A run without a known end keeps that.
    """

    def __init__(self) -> None:
        super().__init__()
        self._total: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn where the run ends."""
        self._total = total_steps(trainer)
        super().on_train_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the bar with the first epoch."""
        if self._total is None or self.train_progress_bar_id is None:
            super().on_train_epoch_start(trainer, pl_module)

    @property
    def total_train_batches(self) -> int | float:
        """Where the bar ends."""
        return super().total_train_batches if self._total is None else self._total

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        done = batch_idx if self._total is None else trainer.global_step - 1
        super().on_train_batch_end(trainer, pl_module, outputs, batch, done)

    def _get_train_description(self, current_epoch: int) -> str:
        """The bar's title."""
        return f"Epoch {current_epoch}" if self._total is None else "Step"

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What the module logs for the bar; the run's number is no figure."""
        standard = get_standard_metrics(trainer)
        metrics = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in metrics.items() if name not in standard}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the bar, so that it stands above what is printed last."""
        self._stop_progress()
