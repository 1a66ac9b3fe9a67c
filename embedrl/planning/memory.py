"""Bytes on one device: weights, gradients, the optimizer's state, and what the backward pass needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from embedrl.models.lora import LoRAOptions
from embedrl.models.qwen_vl.backbone import QwenVL
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


def kept(model: QwenVL, row: TokenRow, setup: Setup) -> float:
    """Bytes that one row keeps from the forward to the backward pass.

    With gradient checkpointing these are the inputs of each layer; `layer_bytes` counts the layer that is recomputed.
    """
    config = model.core.config
    text, vision = config.text_config, config.vision_config
    # The inputs of the first layer: embeddings, and the pictures' features for each of the first layers (DeepStack).
    ends = 2 * text.hidden_size * row.length * setup.compute
    tokens = sum(row.blocks) / vision.spatial_merge_size**2
    ends += (1 + len(vision.deepstack_visual_indexes)) * tokens * text.hidden_size * setup.compute
    if model.gradient_checkpointing:
        layers = text.num_hidden_layers * text.hidden_size * row.length * setup.compute
        seen = vision.depth * vision.hidden_size * sum(row.blocks) * setup.compute
    else:
        layers = text.num_hidden_layers * layer_bytes(model, row.length, setup)
        seen = vision.depth * block_bytes(vision, sum(row.blocks), setup)
    # The mergers are not checkpointed: the inputs of the norm, the two linear layers and the activation.
    seen += (1 + len(vision.deepstack_visual_indexes)) * 4 * sum(row.blocks) * vision.hidden_size * setup.compute
    trains_vision = any(p.requires_grad for p in model.core.visual.parameters())
    return float(ends + layers + (seen if trains_vision else 0))


def layer_bytes(model: QwenVL, tokens: int, setup: Setup) -> float:
    """Bytes that one layer of the language model keeps for its backward pass."""
    text = model.core.config.text_config
    hidden, inner = text.hidden_size, text.intermediate_size
    heads, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    # Norms compute in float32: the residual stream twice, and queries and keys.
    norms = FLOAT32 * (2 * hidden + heads + keys)
    # Queries, keys and values (both repeated for each head), the result; gate, its activation, and up.
    inside = setup.compute * (4 * heads + 3 * inner)
    return float(tokens * (norms + inside + _inputs(model.lora, setup.compute, hidden, heads, inner)))


def _inputs(lora: LoRAOptions | None, compute: int, hidden: int, heads: int, inner: int) -> float:
    """Bytes per token of the linear layers' inputs, which the gradients of trained weights need."""
    if lora is not None and lora.dropout:
        # Each adapter has its own dropout: its output and its mask.
        mlp = 0 if lora.scope == "language-attention" else 2 * hidden + inner
        return (compute + 1) * (3 * hidden + heads + mlp)
    return compute * (2 * hidden + inner)


def block_bytes(vision: Any, patches: int, setup: Setup) -> float:
    """Bytes that one block of a trained vision tower keeps for its backward pass."""
    wide, inner = vision.hidden_size, vision.intermediate_size
    return float(patches * (setup.compute * (8 * wide + 2 * inner) + FLOAT32 * 2 * wide))


def working(model: QwenVL, rows: list[TokenRow], setup: Setup) -> float:
    """Bytes of the layer that is being computed, of all rows of a micro-batch."""
    config = model.core.config
    layer = layer_bytes(model, sum(row.length for row in rows), setup)
    return max(layer, block_bytes(config.vision_config, sum(sum(row.blocks) for row in rows), setup))


def cache_bytes(model: QwenVL, tokens: float, setup: Setup) -> float:
    """Bytes of keys and values that generation keeps of this many tokens."""
    text = model.core.config.text_config
    return float(2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * tokens * setup.compute)
