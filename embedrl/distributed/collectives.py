"""What several processes must agree on: gathered rows, counts, and when gradients are exchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from lightning.pytorch.overrides.distributed import prepare_for_backward
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

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
        rows: This rank's rows, `[n, ...]`, n differing from rank to rank.

    Returns:
        `[sum of n, ...]`, the same values on every rank.
    """
    ranks = world_size()
    if ranks == 1:
        return rows
    sizes = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(ranks)]
    distributed.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    padded = rows.new_zeros(int(max(sizes)), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in range(ranks)]
    distributed.all_gather(parts, padded)
    parts = [part[: int(size)] for part, size in zip(parts, sizes, strict=True)]
    parts[distributed.get_rank()] = rows
    return torch.cat(parts)


def gather_objects(own: Sequence[T]) -> list[T]:
    """The items of all ranks, rank by rank; a rank may have none. All ranks call together."""
    if world_size() == 1:
        return list(own)
    everyone: list[Any] = [None] * world_size()
    distributed.all_gather_object(everyone, list(own))
    return [item for part in everyone for item in part]


def gradient_norm(module: nn.Module) -> Tensor:
    """The norm of a module's whole gradient, sharded or not."""
    norm = nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


class GradientSync:
    """Exchange gradients between ranks once, in the last of several backward passes.

    DDP arms its reducer when a forward pass ends, and FSDP2 reduces in every backward pass: `hold` keeps both still,
    `release` lets the next backward pass go through. Without either, both do nothing.

    Args:
        wrapper: The strategy's model: DDP, or the LightningModule itself.
        encoder: The module that FSDP2 sharded as a root, if it did.
    """

    def __init__(self, wrapper: nn.Module | None, encoder: nn.Module) -> None:
        self._ddp = wrapper if isinstance(wrapper, DistributedDataParallel) else None
        self._sharded = encoder if isinstance(encoder, FSDPModule) else None
        self._wanted = True

    def hold(self) -> None:
        """Call while the forward pass still runs."""
        if self._ddp is not None:
            self._wanted = self._ddp.require_backward_grad_sync  # False while accumulating over batches
            self._ddp.require_backward_grad_sync = False
        if self._sharded is not None:
            self._sharded.set_requires_gradient_sync(False)

    def release(self, output: Tensor) -> Tensor:
        """Call before the last backward pass.

        Args:
            output: The scalar whose backward pass comes next.

        Returns:
            The scalar to run it on: under DDP every trained parameter takes part in it, as the reducer expects, even
            one that only other micro-batches used.
        """
        if self._sharded is not None:
            self._sharded.set_requires_gradient_sync(True)
        if self._ddp is None:
            return output
        self._ddp.require_backward_grad_sync = self._wanted
        if self._wanted:
            output = output + sum(p.sum() * 0 for p in self._ddp.parameters() if p.requires_grad)
        prepare_for_backward(self._ddp, output)
        return output
