"""Cached vision features: a frozen vision tower runs once for each micro-batch, however often that is encoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only


@contextmanager
def cache_vision_features(tower: nn.Module, seen: list[Any]) -> Iterator[None]:
    """While open, a frozen tower stores its outputs in `seen`; if `seen` holds outputs already, it returns those.

    Stored outputs are kept on the CPU, so that a device's memory does not grow with the number of micro-batches. A
    tower with trained parameters computes as usual, and nothing is stored.

    Args:
        tower: The vision tower; it must not draw random numbers.
        seen: The cache of one micro-batch, empty before its first pass. Its content must come from the same weights
            and inputs.
    """
    if any(parameter.requires_grad for parameter in tower.parameters()):
        yield
        return
    forward, cached = tower.forward, iter(seen) if seen else None

    def cached_forward(*args: Any, **kwargs: Any) -> Any:
        if cached is not None:
            device = next(leaf.device for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
            return tree_map_only(Tensor, lambda tensor: tensor.to(device, non_blocking=True), next(cached))
        features = forward(*args, **kwargs)
        seen.append(tree_map_only(Tensor, _copy_to_cpu, features))
        return features

    tower.forward = cached_forward  # a hook cannot prevent the forward pass
    try:
        yield
    finally:
        del tower.forward  # the instance attribute; the class has its own


def _copy_to_cpu(tensor: Tensor) -> Tensor:
    """A copy on the CPU; pinned, so that both copies run asynchronously, in the order of the device's stream."""
    if tensor.device.type == "cpu":
        return tensor.detach()
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor.detach(), non_blocking=True)
