"""The processes of a command outside of a Trainer: each one's device, and the group that they form."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import distributed

from embedrl.distributed.collectives import rank
from embedrl.errors import ConfigError

Device = Literal["auto", "cpu", "cuda"]


def choose_device(device: Device) -> torch.device:
    """This process's device: its own GPU if torchrun has started several processes.

    Args:
        device: What `--device` says; auto takes a GPU if there is one.

    Raises:
        ConfigError: If a GPU is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ConfigError("--device cuda: torch finds no GPU here; give cpu or auto")
    if device == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def processes(device: Device) -> Iterator[tuple[torch.device, int]]:
    """The device of this process and its rank; joins the other processes if torchrun has started several.

    Args:
        device: As `choose_device` takes it.

    Raises:
        ConfigError: If a GPU is asked for and there is none.
    """
    place = choose_device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    joins = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized()
    if joins:
        distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield place, rank()
    finally:
        if joins:
            distributed.destroy_process_group()
