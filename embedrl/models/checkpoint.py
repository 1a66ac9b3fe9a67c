"""What a Lightning checkpoint of ours holds: trained weights, and hyperparameters in the form of a config file.

Config form means plain values and `{"class_path": ..., "init_args": ...}`: it loads with `weights_only=True`, and
`Module.load_from_checkpoint(path)` rebuilds the module whether the command line or Python built it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from lightning import LightningModule
from torch import nn

from embedrl.errors import CheckpointError, ConfigError

INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"


def config_form(value: Any) -> Any:
    """Turn a live object into what a YAML file would say.

    An object must keep every argument of its `__init__` as an attribute of the same name. A `functools.partial` of a
    class (an optimizer waiting for its parameters) becomes that class with its keywords.

    Raises:
        ConfigError: If the object does not say how it was made.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: config_form(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [config_form(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: config_form(getattr(value, field.name)) for field in fields(value) if field.init}
    if isinstance(value, type):
        return {"class_path": _path(value)}
    if isinstance(value, functools.partial):
        # jsonargparse wraps the class in helper functions: partial(call, instantiate, AdamW, lr=...)
        made = next((item for item in (value.func, *value.args) if isinstance(item, type)), None)
        if made is not None:
            return {"class_path": _path(made), "init_args": config_form(value.keywords)}
    elif not inspect.isroutine(value):
        arguments = inspect.signature(type(value)).parameters
        missing = [name for name in arguments if not hasattr(value, name)]
        if not missing:
            init_args = {name: config_form(getattr(value, name)) for name in arguments}
            return {"class_path": _path(type(value)), "init_args": init_args}
        raise ConfigError(
            f"{_path(type(value))} cannot be written to a checkpoint: keep its argument {missing[0]!r} as an attribute"
        )
    raise ConfigError(f"{value!r} cannot be written to a checkpoint: give functools.partial(SomeClass, lr=...) instead")


def hyperparameters(**arguments: Any) -> dict[str, Any]:
    """What a module gives to `save_hyperparameters`, so that `load_from_checkpoint` rebuilds its arguments from text.

    Args:
        **arguments: The arguments of the module's `__init__`.

    Raises:
        ConfigError: If one of them cannot be written as text.
    """
    return {**{name: config_form(value) for name, value in arguments.items()}, "_instantiator": INSTANTIATOR}


def trained_keys(module: nn.Module) -> set[str]:
    """Names of what training changes: parameters with gradients, and the buffers of the modules that own them."""
    keys: set[str] = set()
    for prefix, part in module.named_modules(remove_duplicate=False):
        names = [name for name, p in part.named_parameters(recurse=False, remove_duplicate=False) if p.requires_grad]
        if names:
            buffers = {name for name, _ in part.named_buffers(recurse=False)} - part._non_persistent_buffers_set
            keys.update(f"{prefix}.{name}" if prefix else name for name in (*names, *buffers))
    return keys


def check_keys(module: nn.Module, saved: Iterable[str]) -> None:
    """Refuse a state that is not this module's; frozen weights may be absent.

    Raises:
        CheckpointError: Naming the keys that are unexpected, or trained and missing.
    """
    saved = set(saved)
    known = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    known |= {name for name, _ in module.named_buffers(remove_duplicate=False)}
    problems = {"does not know": saved - known, "trains, but the checkpoint lacks,": trained_keys(module) - saved}
    for what, keys in problems.items():
        if keys:
            some = ", ".join(sorted(keys)[:5]) + (", ..." if len(keys) > 5 else "")
            raise CheckpointError(
                f"the checkpoint does not fit: the model {what} {len(keys)} keys ({some}); "
                "build the model with the options it was trained with (backbone, LoRA scope)"
            )


class TrainedWeights(LightningModule):
    """A module whose checkpoints hold what training changes; frozen weights come from the model's own checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.strict_loading = False  # `load_state_dict` checks the keys that must be there

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what training changes."""
        keep = trained_keys(self)
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in keep}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load trained weights.

        Raises:
            CheckpointError: If a key is unknown, or a trained one is missing.
        """
        check_keys(self, state_dict)
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        result.missing_keys.clear()  # frozen
        return result


def _path(cls: type) -> str:
    """The import path of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"
