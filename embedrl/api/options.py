"""What a program may choose: where a model computes, in which type, from which seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TypeVar

import torch

from embedrl.errors import ConfigError
from embedrl.training.trained_model import Dtype

E = TypeVar("E", bound=StrEnum)


def choose_device(device: str | torch.device) -> torch.device:
    """The device that a name means.

    Args:
        device: `auto` (a GPU if there is one), or a name of torch's, such as `cpu` or `cuda:1`.

    Raises:
        ConfigError: If torch knows no such device, or finds no GPU here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device {device!r}: torch knows none of that name; give auto, cpu or cuda") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r}: torch finds no GPU here; give cpu or auto")
    return place


def choose_dtype(dtype: str, device: torch.device) -> Dtype:
    """The type of the weights.

    Args:
        dtype: `float32`, `bfloat16`, or `auto`: on a GPU the type in which the weights are stored, on a CPU float32. So
            `auto` rounds no weight.
        device: Where the model computes.

    Raises:
        ConfigError: If it is another.
    """
    if dtype == "auto":
        return "float32" if device.type == "cpu" else "auto"
    if dtype == "float32" or dtype == "bfloat16":
        return dtype
    raise ConfigError(f"dtype {dtype!r}: give auto, float32 or bfloat16")


def choose(kind: type[E], value: str, name: str) -> E:
    """One of a few words.

    Args:
        kind: The words.
        value: What was given.
        name: Name of the argument.

    Raises:
        ConfigError: If it is none of them.
    """
    if value in list(kind):
        return kind(value)
    raise ConfigError(f"{name} {value!r}: give one of {', '.join(kind)}")


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draw from a seed, and leave torch's global generators as they were; None changes nothing.

    Args:
        seed: The seed.
        device: Where a model draws.
    """
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
