"""A frozen vision tower looks at the pictures of a micro-batch once, however often the micro-batch comes back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only


@contextmanager
def cache_vision_features(tower: nn.Module, seen: list[Any]) -> Iterator[None]:
    """While open, a frozen tower leaves what it makes in `seen`, or, if that holds something, answers with it.

    What was made waits on the CPU, so that a device's memory does not grow with the number of micro-batches. A tower
    that is trained computes as ever.

    Args:
        tower: The vision tower; it draws no random numbers.
        seen: One list for each micro-batch, empty at first; what is in it came from the same weights and inputs.
    """
    if any(parameter.requires_grad for parameter in tower.parameters()):
        yield
        return
    made, again = tower.forward, iter(seen) if seen else None

    def look(pixels: Tensor, *args: Any, **kwargs: Any) -> Any:
        if again is not None:
            return tree_map_only(Tensor, lambda tensor: tensor.to(pixels.device, non_blocking=True), next(again))
        features = made(pixels, *args, **kwargs)
        seen.append(tree_map_only(Tensor, _put_aside, features))
        return features

    tower.forward = look  # a hook cannot keep the forward pass from running
    try:
        yield
    finally:
        del tower.forward  # the instance attribute; the class has its own


def _put_aside(tensor: Tensor) -> Tensor:
    """A copy on the CPU; pinned, so that the copies there and back run in the device's own order, without waiting."""
    if tensor.device.type == "cpu":
        return tensor.detach()
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor.detach(), non_blocking=True)
