"""Options of the Trainer that cannot do here what they say: one line at the start, with what to use instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy

from embedrl.errors import ConfigError

_PRECISIONS = {"32", "32-true", "bf16", "bf16-mixed"}

_REFUSED: dict[type[Callback], str] = {
    StochasticWeightAveraging: "copies the model before its weights are there, and would average nothing: use "
    "WeightAveraging or EMAWeightAveraging",
    BatchSizeFinder: "trains with another batch size than the configuration says: set data.batch_size, and bound "
    "memory by the micro-batches",
    LearningRateFinder: "trains with another learning rate than the configuration says: set "
    "model.optimizer.init_args.lr",
}


def check_precision(precision: Any, accelerator: Any = "auto") -> None:
    """Refuse a number type that the trainings do not compute in.

    Args:
        precision: `trainer.precision`; None is Lightning's default, `32-true`.
        accelerator: `trainer.accelerator`.

    Raises:
        ConfigError: If it is another one.
    """
    if precision is None or str(precision) in _PRECISIONS:
        return
    if str(precision).endswith("true") or str(precision) == "64":
        cure = "the type of the weights is an option of the model (dtype: bfloat16); use 32-true or bf16-mixed here"
    elif str(precision) in ("16", "16-mixed"):
        if accelerator != "cpu" and torch.cuda.is_available():
            return
        cure = "on a CPU Lightning would take bfloat16 for it: use bf16-mixed"
    else:
        cure = "use 32-true or bf16-mixed"
    raise ConfigError(f"--trainer.precision {precision}: {cure}")


def check_schedule(name: str) -> None:
    """Refuse a schedule that does not exist, or that needs more than the number of the step.

    Args:
        name: `model.schedule`.

    Raises:
        ConfigError: If it is another one.
    """
    from transformers import SchedulerType  # not needed to parse a command line

    names = [kind.value for kind in SchedulerType if kind.value not in ("reduce_lr_on_plateau", "greedy")]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        cure = f"did you mean {close[0]}?" if close else f"give one of {', '.join(names)}"
        raise ConfigError(f"--model.schedule {name}: no such schedule; {cure}")


@contextmanager
def refusals(flag: str) -> Iterator[None]:
    """Tell in one line what a library refuses while an object is made of the arguments of an option.

    Args:
        flag: The option.

    Raises:
        ConfigError: If what is inside raises.
    """
    try:
        yield
    except (ValueError, TypeError, AssertionError) as error:
        raise ConfigError(f"{flag}: {' '.join(str(error).split())}") from error


def check_trainer(trainer: Trainer, module: LightningModule) -> None:
    """Refuse what the three trainings cannot do, or would do otherwise than the configuration says.

    Args:
        trainer: The trainer, before it starts.
        module: The module that it is to train.

    Raises:
        ConfigError: Naming the option and what to use instead.
    """
    if trainer.precision != "16-mixed":
        check_precision(trainer.precision)
    elif not module.automatic_optimization:
        raise ConfigError("--trainer.precision 16-mixed: EG-RL would clip scaled gradients: use bf16-mixed")
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        for refused, reason in _REFUSED.items():
            if isinstance(callback, refused):
                raise ConfigError(f"--trainer.callbacks: {refused.__name__} {reason}")
        if isinstance(callback, WeightAveraging) and isinstance(trainer.strategy, ModelParallelStrategy):
            raise ConfigError(
                f"--trainer.callbacks: {type(callback).__name__} copies the whole model, which FSDP2Strategy shards: "
                "use --trainer.strategy ddp"
            )
