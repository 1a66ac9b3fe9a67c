"""What a Lightning checkpoint of ours holds: trained weights, and hyperparameters in the form of a config file.

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

from lightning import LightningModule

from embedrl.distributed.trained_keys import check_keys, trained_keys
from embedrl.errors import ConfigError
from embedrl.utils.public_names import public_path

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
            return {"class_path": public_path(type(value)), "init_args": init_args}
        raise ConfigError(
            f"{public_path(type(value))} cannot be written to a checkpoint: "
            f"keep its argument {missing[0]!r} as an attribute"
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
