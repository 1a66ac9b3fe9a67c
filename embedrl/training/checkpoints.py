"""The content of a training checkpoint: trained weights, and hyperparameters in the form of a config file.

Config form means plain values and `{"class_path": ..., "init_args": ...}`: it loads with `weights_only=True`, and
`Module.load_from_checkpoint(path)` rebuilds the module whether the command line or Python built it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from embedrl.errors import ConfigError
from embedrl.utils.public_names import public_path

INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"


def config_form(value: Any) -> Any:
    """Convert an object to the form of a YAML file.

    An object must keep every argument of its `__init__` as an attribute of the same name; for a `**name`, that is a
    mapping or a dataclass of those keywords. A `functools.partial` of a class (an optimizer waiting for its parameters)
    becomes that class with its keywords.

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
        return {"class_path": public_path(value)}
    if isinstance(value, functools.partial):
        # jsonargparse wraps the class in helper functions: partial(call, instantiate, AdamW, lr=...)
        made = next((item for item in (value.func, *value.args) if isinstance(item, type)), None)
        if made is not None:
            return {"class_path": public_path(made), "init_args": config_form(value.keywords)}
    elif not inspect.isroutine(value):
        arguments = inspect.signature(type(value)).parameters
        missing = [name for name in arguments if not hasattr(value, name)]
        if not missing:
            init_args = {name: config_form(getattr(value, name)) for name in arguments}
            for name, argument in arguments.items():
                if argument.kind is inspect.Parameter.VAR_KEYWORD:
                    init_args |= init_args.pop(name)
            return {"class_path": public_path(type(value)), "init_args": init_args}
        raise ConfigError(
            f"{public_path(type(value))} cannot be written to a checkpoint: "
            f"keep its argument {missing[0]!r} as an attribute"
        )
    raise ConfigError(f"{value!r} cannot be written to a checkpoint: give functools.partial(SomeClass, lr=...) instead")


def hyperparameters(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a module gives to `save_hyperparameters`, so that `load_from_checkpoint` rebuilds its arguments from text.

    Args:
        arguments: The arguments of the module's `__init__`.

    Raises:
        ConfigError: If one of them cannot be written as text.
    """
    return {**{name: config_form(value) for name, value in arguments.items()}, "_instantiator": INSTANTIATOR}
