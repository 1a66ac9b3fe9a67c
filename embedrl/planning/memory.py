"""Bytes on one device: weights, gradients, the optimizer's state, and what the backward pass needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from embedrl.planning.flops import Flops
from embedrl.planning.rows import TokenRow

FLOAT32 = 4


@dataclass(frozen=True)
class Setup:
    """Where and how a model trains.

    Attributes:
        devices: Number of devices.
        sharded: Whether weights, gradients and optimizer are sharded over them (FSDP2).
        compute: Bytes of a number in the forward pass: 2 for bfloat16.
        cast: Whether float32 weights are cast to that type in the forward pass (autocast).
    """

    devices: int
    sharded: bool
    compute: int
    cast: bool

    @property
    def shards(self) -> int:
        """Number of parts into which the weights are sharded."""
        return self.devices if self.sharded else 1


def size(parameters: Iterable[nn.Parameter]) -> int:
    """Bytes of parameters."""
    return sum(p.numel() * p.element_size() for p in parameters)


def optimizer_bytes(parameters: list[nn.Parameter], make: Callable[..., torch.optim.Optimizer]) -> int:
    """Bytes of an optimizer's state after a step; measured on the meta device, for any optimizer.

    Args:
        parameters: Trained parameters, on the meta device; their gradients are overwritten.
        make: Builds the optimizer of a list of parameters.
    """
    if not parameters:
        return 0
    optimizer = make(parameters)
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    tensors = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def training_bytes(model: Any, setup: Setup, make: Callable[..., torch.optim.Optimizer]) -> dict[str, float]:
    """Bytes on one device that do not depend on the data.

    Args:
        model: A backbone or a generator, built on the meta device.
        setup: Where it trains.
        make: Builds the optimizer.
    """
    every = list(model.parameters())
    trained = [p for p in every if p.requires_grad]
    needed = {
        "weights": size(every) / setup.shards,
        "gradients": size(trained) / setup.shards,
        "optimizer": optimizer_bytes(trained, make) / setup.shards,
    }
    if setup.sharded:
        # The root stays gathered from the forward to the end of the backward pass, and each layer is gathered one layer
        # ahead.
        layers = [list(layer.parameters()) for layer in model.shard_units()]
        inside = {id(p) for layer in layers for p in layer}
        root = [p for p in every if id(p) not in inside]
        unit = max((sum(p.numel() for p in layer) for layer in layers), default=0)
        group = max(sum(p.numel() for p in part if p.requires_grad) for part in (root, *layers))
        needed["gathered weights"] = (sum(p.numel() for p in root) + 2 * unit) * setup.compute
        needed["gradients in transit"] = group * (setup.compute + FLOAT32)
    elif setup.cast:
        wide = sum(p.numel() for p in every if p.element_size() > setup.compute)
        needed["weights cast by autocast"] = float(wide * setup.compute)
    return needed


def whole(model: nn.Module, itemsize: int | None = None) -> float:
    """Bytes of a model's weights on every device, at `itemsize` bytes a number if that is given."""
    return float(sum(p.numel() * (itemsize or p.element_size()) for p in model.parameters()))


def kept(model: Any, flops: Flops, row: TokenRow, setup: Setup) -> float:
    """Bytes that one row keeps from the forward to the backward pass.

    With gradient checkpointing these are the inputs of each layer; `working` counts the layer that is computed again.
    """
    width = model.network.get_input_embeddings().weight.shape[1]
    # The inputs of the first layer: embeddings, and the features of pictures.
    ends = (2 * width * row.length + sum(picture.features for picture in row.pictures)) * setup.compute
    return float(ends + flops.text(row.length).kept + sum(picture.cost.kept for picture in row.pictures))


def working(flops: Flops, rows: list[TokenRow]) -> float:
    """Bytes of the layer that is being computed, of all rows of a micro-batch."""
    blocks = sum(picture.block for row in rows for picture in row.pictures)
    return max(flops.layer(sum(row.length for row in rows)), blocks)
