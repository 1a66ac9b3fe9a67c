"""What Lightning and other libraries refuse while a run is built, in one line."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException

import embedrl
from embedrl.commands.parsing import explain
from embedrl.errors import ConfigError, EmbedRLError
from embedrl.utils.ranges import check_least

_PACKAGE = Path(embedrl.__file__).parent


def check_trainer_values(trainer: Namespace) -> None:
    """Refuse values of the Trainer that Lightning divides by later, and classes where it takes names alone.

    Args:
        trainer: The section `trainer` of a configuration.

    Raises:
        ConfigError: Naming the option.
    """
    counts = ("accumulate_grad_batches", "check_val_every_n_epoch", "num_nodes")
    check_least(1, {f"--trainer.{name}": trainer.get(name) for name in counts})
    if re.match(r"ddp_(spawn|fork|notebook)", str(trainer.get("strategy"))):
        # Lightning loads the trained weights into the first process's module, which was never built.
        raise ConfigError(f"--trainer.strategy {trainer.strategy}: use ddp, which starts the command once a process")
    for name in ("strategy", "accelerator", "profiler"):
        value = trainer.get(name)
        if isinstance(value, str) and "." in value:
            named = re.search(r'"class_path": "(.*)"', value)
            if named:  # from the command line, where jsonargparse took it for a name after all
                raise ConfigError(f"--trainer.{name}: no class of that name: {named[1]}; check that it can be imported")
            raise ConfigError(f"--trainer.{name} {value}: a class goes under class_path: {{class_path: {value}}}")


def refusal(error: BaseException) -> ConfigError | None:
    """The line for an error that a library raised about the configuration; None for a bug, and for errors of ours.

    Args:
        error: What was raised while the objects of a configuration were made, or while Lightning started to run them.
    """
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or at.__context__
    if any(isinstance(one, EmbedRLError) for one in chain):
        return None
    missing = next((one for one in reversed(chain) if isinstance(one, ImportError)), None)
    if missing is not None:
        return ConfigError(f"{_line(missing)}: install it, or choose another class")
    if isinstance(error, MisconfigurationException):
        return ConfigError(_line(error))
    frames = traceback.extract_tb(error.__traceback__)
    if not isinstance(error, ValueError | TypeError) or Path(frames[-1].filename).is_relative_to(_PACKAGE):
        return None
    text = str(error)
    return ConfigError(explain(text, [], "embedrl fit") if "Parser key" in text or "\n" in text else _line(error))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")
