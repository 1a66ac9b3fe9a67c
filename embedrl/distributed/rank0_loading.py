"""Loading weights on rank 0 only; the others receive them, so that a machine holds them once while they load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from embedrl.distributed.collectives import rank, world_size
from embedrl.distributed.loadable import Loadable
from embedrl.errors import CheckpointError, EmbedRLError, listed

Inventory = dict[str, tuple[tuple[int, ...], torch.dtype, bool]]
"""Shape, dtype and whether it is trained, of every parameter and buffer by name; what is tied once."""


def build_once(model: Loadable) -> dict[str, Any]:
    """Build a model: with its weights on the first process, without numbers on the others. All call together.

    Args:
        model: A model, not built.

    Returns:
        On the first process the weights, by name; they stay as they are when the model is sharded. Elsewhere nothing.

    Raises:
        EmbedRLError: The error of any process. All of them raise, so that none waits for one that has ended.
    """
    problem: Exception | None = None
    try:
        model.build() if rank() == 0 else model.build_on_meta()
    except Exception as error:  # noqa: BLE001 (reported to all processes, then raised)
        problem = error
    reports: list[Any] = [(_error_text(problem), None if problem else inventory(model))]
    if world_size() > 1:
        reports = reports * world_size()
        distributed.all_gather_object(reports, reports[0])
    if problem is not None:
        raise problem
    problems = [text for text, _ in reports if text]
    if problems:
        raise CheckpointError(problems[0])
    first, *others = (made for _, made in reports)
    for number, other in enumerate(others, 1):
        _check_same(first, other, f"{type(model).__name__}: process {number} built another model than process 0")
    if rank() == 0:
        return model.state_dict()
    for name, tensor in _tensors(model):  # the checkpoint may decide on the dtype
        if tensor.dtype != first[name][1]:
            tensor.data = tensor.data.to(first[name][1])
    return {}


def receive(model: nn.Module, weights: dict[str, Any], device: torch.device) -> None:
    """Give every process its part of the first one's weights: its shards, or all of a model that is not sharded.

    One tensor at a time is whole on a process that is to keep a shard of it. All processes call together.

    Args:
        model: What `build_once` built, sharded since, or on its device where it has numbers.
        weights: What `build_once` returned.
        device: Where the others keep theirs.
    """
    if world_size() == 1:
        return
    if rank():
        with _keeping_ties():
            model.to_empty(device=device)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, weights, options=options)
    # No state dict holds all buffers: rotary frequencies, for one, are computed when a model is made.
    for buffer in model.buffers():
        distributed.broadcast(buffer, 0)


def inventory(model: nn.Module) -> Inventory:
    """The parameters and buffers of a model."""
    return {name: (tuple(tensor.shape), tensor.dtype, tensor.requires_grad) for name, tensor in _tensors(model)}


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _check_same(first: Inventory, other: Inventory, problem: str) -> None:
    names = first.keys() | other.keys()
    differing = [name for name in names if _form(first, name) != _form(other, name)]
    if differing:
        raise CheckpointError(
            f"{problem}: {listed(sorted(differing))}; give all of them the same checkpoint and the same versions"
        )


def _form(model: Inventory, name: str) -> tuple[tuple[int, ...], bool] | None:
    return (model[name][0], model[name][2]) if name in model else None


def _error_text(problem: Exception | None) -> str:
    if problem is None or isinstance(problem, EmbedRLError):
        return str(problem or "")
    return f"process {rank()} cannot build the model: {type(problem).__name__}: {problem}"


@contextmanager
def _keeping_ties() -> Iterator[None]:
    """Let `to_empty` swap what is in a parameter, rather than put a new one in each of the places that share it."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
