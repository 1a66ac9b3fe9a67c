"""When gradients are exchanged between ranks, and their norm."""

from __future__ import annotations

from lightning.pytorch.overrides.distributed import prepare_for_backward
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel


def gradient_norm(module: nn.Module) -> Tensor:
    """The norm of a module's whole gradient, sharded or not."""
    norm = nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


class GradientSync:
    """Exchange gradients between ranks once, in the last of several backward passes, under DDP.

    DDP arms its reducer when a forward pass ends: `hold` keeps it still, `release` lets the next backward pass go
    through. Without DDP both do nothing. FSDP2 reduces in every backward pass and adds up shards: gradients that were
    held back would be whole on every rank, four bytes for each trained parameter.

    Args:
        wrapper: The strategy's model: DDP, or the LightningModule itself.
    """

    def __init__(self, wrapper: nn.Module | None) -> None:
        self._ddp = wrapper if isinstance(wrapper, DistributedDataParallel) else None
        self._exchanges = True

    def hold(self) -> None:
        """Call while the forward pass still runs."""
        if self._ddp is not None:
            self._exchanges = self._ddp.require_backward_grad_sync  # False while accumulating over batches
            self._ddp.require_backward_grad_sync = False

    def release(self, output: Tensor) -> Tensor:
        """Call before the last backward pass.

        Args:
            output: The scalar whose backward pass comes next.

        Returns:
            The scalar to run it on: under DDP every trained parameter takes part in it, as the reducer expects, even
            one that only other micro-batches used.
        """
        if self._ddp is None:
            return output
        self._ddp.require_backward_grad_sync = self._exchanges
        if self._exchanges:
            output = output + sum(p.sum() * 0 for p in self._ddp.parameters() if p.requires_grad)
        prepare_for_backward(self._ddp, output)
        return output
