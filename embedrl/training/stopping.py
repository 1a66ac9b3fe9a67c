"""`last.ckpt`, and how a run stops when it is told to: after a whole step, saved, with the exit code of the signal."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from embedrl.training.progress import steps_per_batch
from embedrl.utils.console import tell

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopOnSignal(Callback):
    """Lets SIGTERM and Ctrl-C stop a run: once for a checkpoint after this step, twice for at once.

    Outside training nothing is to be saved, and the first one stops at once. The exit code is 143 or 130, that of every
    program which such a signal ends, so that `embedrl fit && embedrl export` goes no further. Lightning's own handler
    ends with 0, saves nothing, and talks to the other processes from wherever the signal came.

    Attributes:
        received: The first signal that came; None before.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._training = self._told = False

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over from Lightning, which has just taken them."""
        self._install()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a signal waits for the end of a step."""
        self._install()
        self._training = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As `on_sanity_check_start`."""
        self._install()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As `on_sanity_check_start`."""
        self._install()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As `on_sanity_check_start`."""
        self._install()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop a run that keeps no checkpoints; in others `LastCheckpoint` does, when it has written."""
        if not _keeps_last(trainer) and self.asked(trainer):
            self.stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All steps are done and saved: nothing waits any more."""
        self._training = False

    def asked(self, trainer: Trainer) -> bool:
        """Whether any process was told to stop, at the end of a step; all processes ask together.

        In the middle of a step, between accumulated batches, there is nothing that a checkpoint could hold.
        """
        if trainer.fit_loop._should_accumulate():
            return False
        if trainer.world_size == 1:
            return self.received is not None
        return bool(trainer.strategy.reduce_boolean_decision(self.received is not None, all=False))

    def stop(self, trainer: Trainer, saved: str = "") -> None:
        """Have Lightning leave the loop when it has logged this step."""
        if trainer.is_global_zero and not self._told:
            name = signal.Signals(self.received or signal.SIGTERM).name
            kept = f"saved {saved}; --ckpt_path last goes on from there" if saved else "nothing is saved"
            tell(f"stopped by {name} after step {trainer.global_step}: {kept}")
        self._told = True
        trainer._signal_connector.received_sigterm = True

    def exit_code(self, trainer: Trainer) -> int:
        """128 and the signal's number; 0 in the processes that Lightning started, which it would call broken."""
        own = isinstance(trainer._accelerator_connector.cluster_environment, LightningEnvironment)
        if own and not trainer.is_global_zero:
            return 0
        return 128 + (self.received or signal.SIGTERM)

    def _install(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._process = os.getpid()
            for number in SIGNALS:
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker, on its way to handlers of its own
            return
        if self._training and self.received is None:
            self.received = number
            tell(f"{signal.Signals(number).name}: finishes the step and saves; once more stops at once")
            return
        tell(f"stopped by {signal.Signals(number).name}")
        raise SystemExit(128 + number)


class LastCheckpoint(ModelCheckpoint):
    """Writes `last.ckpt` every few steps, after every validation, when training ends, and when a signal stops it.

    Never in the middle of a step, between accumulated batches: a checkpoint holds no gradients.

    Args:
        every_n_steps: At most so many optimizer steps lie between two checkpoints; at least those of one batch.
    """

    def __init__(self, every_n_steps: int) -> None:
        super().__init__(save_last=True, save_top_k=0, every_n_train_steps=every_n_steps, enable_version_counter=False)
        self.every_n_steps = every_n_steps

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Learn where batches end: only there is a checkpoint written."""
        super().setup(trainer, pl_module, stage)
        each = steps_per_batch(pl_module)
        if self.every_n_steps > 0:
            self._every_n_train_steps = max(1, self.every_n_steps // each) * each

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write what is due, unless a validation follows, which writes: a run that is killed in it must repeat it."""
        if not _validation_follows(trainer, batch_idx) and not trainer.fit_loop._should_accumulate():
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            if _ends_here(trainer) and self._last_global_step_saved != trainer.global_step:
                self._write(trainer)  # not in `on_train_end`, where Lightning has counted the epoch as a whole one
            self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what a resumed run goes on from, the scores included.

        Not before the first step: a run that has done nothing starts anew.
        """
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if fitting and trainer.global_step and not trainer.fit_loop._should_accumulate():
            self._write(trainer)
            self._stop_if_asked(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last steps, which need not be a multiple.

        Not if they have been: a checkpoint from here would make Lightning count the step of a validation twice.
        """
        if self._last_global_step_saved != trainer.global_step:
            self._write(trainer)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        stop = stop_of(trainer)
        if stop is not None and stop.asked(trainer):
            if self._last_global_step_saved != trainer.global_step:
                self._write(trainer)
            stop.stop(trainer, self.last_model_path)

    def _save_last_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        # First the curves: a run that resumes from here does not log again what came before.
        for logger in trainer.loggers:
            logger.save()
        super()._save_last_checkpoint(trainer, monitor_candidates)

    def _write(self, trainer: Trainer) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


def stop_of(trainer: Trainer) -> StopOnSignal | None:
    """The callback that knows of signals; None in a trainer without it."""
    return next((c for c in trainer.callbacks if isinstance(c, StopOnSignal)), None)  # type: ignore[attr-defined]


def _ends_here(trainer: Trainer) -> bool:
    """Whether the run ends with this batch, be it in the middle of an epoch."""
    return trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step


def _keeps_last(trainer: Trainer) -> bool:
    return any(isinstance(callback, LastCheckpoint) for callback in trainer.checkpoint_callbacks)


def _validation_follows(trainer: Trainer, batch_idx: int) -> bool:
    """Whether a validation is due after this batch, by the number of batches."""
    every, epochs = trainer.val_check_batch, trainer.check_val_every_n_epoch
    if not trainer.enable_validation or not isinstance(every, int):
        return False
    if epochs is None:
        return (trainer.fit_loop.total_batch_idx + 1) % every == 0
    return (trainer.current_epoch + 1) % epochs == 0 and (batch_idx + 1) % every == 0
