"""The content of a training checkpoint: trained weights, and hyperparameters in the form of a config file.

Config form means plain values and `{"class_path": ..., "init_args": ...}`: it loads with `weights_only=True`, and
`Module.load_from_checkpoint(path)` rebuilds the module whether the command line or Python built it.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import site
import sys
import sysconfig
import zipfile
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.cloud_io import _load

import embedrl
from embedrl.errors import CheckpointError, ConfigError, unreadable
from embedrl.utils.public_names import public_path
from embedrl.utils.secrets import without_secrets

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
        made = _made_by(value)
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


def _made_by(value: functools.partial[Any]) -> type | None:
    """The class that a partial makes: jsonargparse wraps it in helpers, `partial(call, instantiate, AdamW, lr=...)`."""
    return next((item for item in (value.func, *value.args) if isinstance(item, type)), None)


def plain_callable(value: Any) -> Any:
    """A class waiting for its last arguments without jsonargparse's helpers, which can be neither copied nor pickled.

    Args:
        value: A `functools.partial` of a class, or anything else, which is returned as it is.
    """
    made = _made_by(value) if isinstance(value, functools.partial) else None
    return value if made is None else functools.partial(made, **value.keywords)


def hyperparameters(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a module gives to `save_hyperparameters`, so that `load_from_checkpoint` rebuilds its arguments from text.

    Args:
        arguments: The arguments of the module's `__init__`.

    Raises:
        ConfigError: If one of them cannot be written as text.
    """
    plain = without_secrets({name: config_form(value) for name, value in arguments.items()}, again=False)
    return {**plain, "_instantiator": INSTANTIATOR}


def peek(checkpoint: Any, weights_only: bool = True, flag: str = "") -> dict[str, Any]:
    """The content of a checkpoint, without reading the numbers of its tensors if it is a file on this machine.

    Args:
        checkpoint: The file, its URL, or an open file, whose place is kept.
        weights_only: Whether to refuse all but tensors and plain values.
        flag: What names it on the command line, with a space behind.

    Raises:
        CheckpointError: If it cannot be read.
    """
    with unreadable(f"{flag}{checkpoint}: not a checkpoint, or cut short", "give another one", CheckpointError):
        if isinstance(checkpoint, str | Path) and zipfile.is_zipfile(checkpoint):
            saved = torch.load(checkpoint, map_location="cpu", weights_only=weights_only, mmap=True)
        else:
            saved = _load(checkpoint, "cpu", weights_only)
        if hasattr(checkpoint, "seek"):
            checkpoint.seek(0)
        if not isinstance(saved, dict) or not isinstance(saved.get("state_dict"), dict):
            raise ValueError("it holds no state_dict")
    return saved


def check_classes(content: Any, where: str) -> None:
    """Refuse to import what a checkpoint names from anywhere: it may be a stranger's, and importing runs code.

    Args:
        content: The checkpoint, or a part of it.
        where: Its name in errors.

    Raises:
        CheckpointError: If a class is neither of embedrl nor of an installed package, nor of a folder on PYTHONPATH,
            nor known already to the program that asks; or if something else than Lightning is to build the module.
    """
    if isinstance(content, Mapping):
        path = content.get("class_path")
        if isinstance(path, str) and not (_is_installed(path.partition(".")[0]) or _is_imported(path)):
            raise CheckpointError(
                f"{where}: names {path}, which is of no installed package: install it, or put its folder on PYTHONPATH "
                "if you trust the checkpoint"
            )
        if (builder := content.get("_instantiator", INSTANTIATOR)) != INSTANTIATOR:
            raise CheckpointError(
                f"{where}: names {builder!r:.80} to build the module: no checkpoint of embedrl's does"
            )
        content = list(content.values())
    if isinstance(content, list | tuple):
        for value in content:
            check_classes(value, where)


def _is_imported(path: str) -> bool:
    """Whether it is a class that the running program has imported or defined itself, as in a notebook."""
    module, _, name = path.rpartition(".")
    known = module.partition(".")[0] not in sys.stdlib_module_names
    return known and isinstance(getattr(sys.modules.get(module), name, None), type)


@functools.cache
def _is_installed(package: str) -> bool:
    """Whether a package is embedrl or lies where packages are installed; the current folder is no such place."""
    if package == embedrl.__name__:
        return True
    if package in sys.stdlib_module_names or package == "__main__":
        return False
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return False
    places = [Path(place).resolve() for place in spec.submodule_search_locations or [spec.origin or ""]]
    given = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    roots = [Path(root).resolve() for root in (*sysconfig.get_paths().values(), site.getusersitepackages(), *given)]
    return all(any(place.is_relative_to(root) for root in roots) for place in places) or _is_editable(package)


def _is_editable(package: str) -> bool:
    """Whether somebody has installed it from a folder of theirs (`pip install -e`)."""
    return package in packages_distributions()
