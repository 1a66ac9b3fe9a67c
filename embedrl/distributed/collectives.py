"""What the processes of a run exchange: rows, objects, counts. Each does nothing in a run of one process.

All processes call the same function at the same time. Rows go through torchmetrics' `gather_all_tensors`, which handles
ranks that hold different numbers of them; it has nothing for Python objects, nor for one number that is reduced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torchmetrics.utilities.distributed import gather_all_tensors

from embedrl.utils.ragged import cat_rows

T = TypeVar("T")


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process; 0 without a process group."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def max_over_ranks(value: int, device: torch.device) -> int:
    """The largest of a number that every rank holds."""
    if world_size() == 1:
        return value
    tensor = torch.tensor(value, device=device)
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return int(tensor.item())


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over ranks of a tensor that every rank holds, without a gradient."""
    if world_size() == 1:
        return values.detach()
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total / world_size()


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all ranks in rank order; ranks may hold different numbers of rows.

    The rank's own rows keep their graph, the others' are constants. A loss computed from the result is the same on
    every rank, and its gradient with respect to the own rows is the exact one: no collective is needed in the backward
    pass. Under DDP and FSDP, which average gradients over ranks, multiply that gradient by `world_size()`.

    Args:
        rows: This rank's rows, `[n, ...]`; n may differ from rank to rank and be 0, as may the tokens of
            `[n, tokens, dim]`, which are padded with zeros. Of any type: values are copied.

    Returns:
        `[sum of n, ...]`, the same values on every rank.
    """
    return rows if world_size() == 1 else cat_rows(gather_all_tensors(rows))


def gather_objects(own: Sequence[T]) -> list[T]:
    """The items of all ranks, rank by rank; a rank may have none. All ranks call together."""
    if world_size() == 1:
        return list(own)
    everyone: list[Any] = [None] * world_size()
    distributed.all_gather_object(everyone, list(own))
    return [item for part in everyone for item in part]
