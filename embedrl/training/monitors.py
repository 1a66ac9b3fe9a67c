"""Monitors of callbacks: a quantity that is never logged is told at the start, not after the first validation."""

from __future__ import annotations

import difflib
import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from embedrl.errors import ConfigError, listed
from embedrl.metrics.retrieval import training_metrics
from embedrl.training.callbacks.reasoned_retrieval import ReasonedRetrieval
from embedrl.training.callbacks.reranked_retrieval import RerankedRetrieval
from embedrl.types import Modality

_REPLIES = ("exact", "format", "answer", "iou", "f1", "keyword_f1", "words")
"""What `GreedyReplies` logs of a kind of lesson, and as a mean."""


class CheckMonitors(Callback):
    """Stops a run whose `best.ckpt` or early stopping waits for a quantity that nobody logs.

    Those of validation are known before the first step, by the names of the tasks and metrics; those of training after
    it. A resumed run is not asked whether a validation follows: it may be near its end.
    """

    def __init__(self) -> None:
        self._first = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the monitors of validation.

        Raises:
            ConfigError: If there is no validation, or it does not log the quantity.
        """
        self._first = trainer.global_step == 0 and not trainer.fast_dev_run  # type: ignore[attr-defined]
        if not self._first or trainer.barebones:
            return
        for flag, monitor in _monitors(trainer):
            if not monitor.startswith("val/"):
                continue
            _check_validation(trainer, pl_module, f"{flag} {monitor}")
            known = _known(trainer)
            if known is not None and monitor not in known and not (_writes(trainer) and _of_replies(trainer, monitor)):
                _refuse(flag, monitor, known + [f"val/{name}" for name in _replies(trainer) if _writes(trainer)])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the others, once the first step has logged.

        Raises:
            ConfigError: If it has not logged the quantity.
        """
        if not self._first or trainer.fit_loop._should_accumulate():
            return
        self._first = False
        logged = [str(name) for name in trainer.callback_metrics]
        for flag, monitor in _monitors(trainer):
            if not monitor.startswith("val/") and monitor not in logged:
                _refuse(flag, monitor, [*logged, *(_known(trainer) or [])])


def _monitors(trainer: Trainer) -> list[tuple[str, str]]:
    """The option and the quantity of every callback that waits for one."""
    monitors = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ModelCheckpoint | EarlyStopping) and callback.monitor is not None:
            best = isinstance(callback, ModelCheckpoint) and callback.filename == "best"
            flag = "--checkpoint.monitor" if best else f"--trainer.callbacks: {type(callback).__name__}.monitor"
            monitors.append((flag, callback.monitor))
    return monitors


def _check_validation(trainer: Trainer, module: LightningModule, what: str) -> None:
    """Refuse a run without a validation.

    Raises:
        ConfigError: Saying why there is none.
    """
    if not trainer.enable_validation or not sum(trainer.num_val_batches):
        raise ConfigError(
            f"{what}: this run has no validation: give data.val, leave trainer.limit_val_batches above 0, or remove it"
        )
    epochs: int | None = trainer.check_val_every_n_epoch
    before = 0 if epochs is None else (epochs - 1) * trainer.num_training_batches
    first = before + (trainer.val_check_batch or 0)
    # A step of EG-RL counts as several optimizer steps; automatic optimisation counts one for several batches.
    steps = trainer.max_steps if trainer.max_steps != -1 else trainer.estimated_stepping_batches
    batches = math.ceil(steps / getattr(module, "inner_epochs", 1)) * trainer.accumulate_grad_batches
    if first > batches:
        raise ConfigError(
            f"{what}: the first validation would come after {first} batches, and the run has {batches}: lower "
            "trainer.val_check_interval (with check_val_every_n_epoch: null it counts over epochs)"
        )


def _of_replies(trainer: Trainer, monitor: str) -> bool:
    """Whether it is a figure of replies, by kind or not: which kinds there are, only the lessons know."""
    return monitor.rpartition("/")[2] in _replies(trainer) or monitor.startswith("val/problem/")


def _replies(trainer: Trainer) -> tuple[str, ...]:
    """The figures of replies: those of all, and the rewards of a training that scores them by its rewards."""
    rewards = [row.reward.name for row in getattr(trainer.lightning_module, "reply_rewards", ())]
    return (*_REPLIES, *rewards, "reward") if rewards else _REPLIES


def _writes(trainer: Trainer) -> bool:
    """Whether the model in training writes replies."""
    return hasattr(trainer.lightning_module, "replies")


def _known(trainer: Trainer) -> list[str] | None:
    """What validation logs, as far as its tasks say; None if a callback of somebody else's may log anything."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if any(type(callback).__module__.partition(".")[0] not in ("embedrl", "lightning") for callback in callbacks):
        return None
    names: list[str] = []
    module: Any = trainer.lightning_module
    tasks = [(task.name, module.metrics) for task in getattr(trainer.datamodule, "tasks", ())]  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, ReasonedRetrieval):
            tasks += [(task.name, callback.metrics) for source in callback.sources for task in source.tasks()]
            names += [f"val/evidence_{modality.value}" for modality in Modality]
        if isinstance(callback, RerankedRetrieval):
            reranked = [task.name for source in callback.sources for task in source.tasks()]
            tasks += [(name, None) for name in reranked]
            names += [f"val/before/{name}/{metric.name}" for name in reranked for metric in training_metrics()]
    for task, metrics in tasks:
        labels = [metric.name for metric in (training_metrics() if metrics is None else metrics)]
        names += [f"val/{at}{label}" for label in [*labels, "delta_s"] for at in ("", f"{task}/")]
    return list(dict.fromkeys(names))


def _refuse(flag: str, monitor: str, known: list[str]) -> None:
    close = difflib.get_close_matches(monitor, known, n=2)
    cure = f"did you mean {' or '.join(close)}?" if close else f"what is logged: {listed(known)}"
    raise ConfigError(f"{flag} {monitor}: this run does not log it; {cure}")
