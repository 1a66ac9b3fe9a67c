"""Runs a module on the meta device as it would run on real inputs, and counts what that takes.

Weights and features have shapes and no numbers. What decides on shapes has numbers: token ids, sizes of pictures,
masks. So a tower whose steps depend on the size of a picture runs as well, which `FakeTensorMode` refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode
from transformers.modeling_layers import GradientCheckpointingLayer

aten = torch.ops.aten


@dataclass(frozen=True)
class Cost:
    """What a part of a model takes.

    Attributes:
        forward: Operations of the forward pass; a multiplication and an addition are two.
        backward: Operations of the backward pass.
        again: Operations that gradient checkpointing repeats; 0 without it.
        saved: Bytes that the backward pass needs of the forward pass if no layer is computed again.
        kept: Bytes that are kept for it: with gradient checkpointing, the inputs of the layers; else those saved.
    """

    forward: float = 0.0
    backward: float = 0.0
    again: float = 0.0
    saved: float = 0.0
    kept: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, count: float) -> Cost:
        return Cost(*(value * count for value in astuple(self)))


@contextmanager
def without_numbers() -> Iterator[None]:
    """While open, operations with a tensor on the meta device give one, whatever the device of the others."""
    attend = functional.scaled_dot_product_attention
    # On the meta device it is taken apart. A TorchFunctionMode would not be open where layers are computed again.
    functional.scaled_dot_product_attention = _attend
    try:
        with _Mixed():  # type: ignore[no-untyped-call]
            yield
    finally:
        functional.scaled_dot_product_attention = attend


def trace(run: Callable[[], Any], owner: nn.Module, given: Iterable[Any] = ()) -> tuple[Cost, Any]:
    """Count a run of a module and its backward pass.

    Args:
        run: Runs the module, under `without_numbers`; its inputs need gradients where the real ones do.
        owner: The module; its parameters are no part of what is saved.
        given: Further tensors that are no part of it, in any structure: several layers share them.

    Returns:
        The cost, and what `run` returned.
    """
    switched: list[Any] = [module for module in owner.modules() if getattr(module, "gradient_checkpointing", False)]
    shared = {_storage(x) for x in tree_leaves(tuple(given)) if isinstance(x, Tensor)}
    for module in switched:
        module.gradient_checkpointing = False
    try:
        cost, result = _trace(run, owner, shared)
    finally:
        for module in switched:
            module.gradient_checkpointing = True
    if not switched or not cost.backward:
        return replace(cost, kept=cost.saved), result
    repeated, _ = _trace(run, owner, shared)
    return replace(cost, again=repeated.backward - cost.backward, kept=repeated.saved), result


def _trace(run: Callable[[], Any], owner: nn.Module, shared: set[int]) -> tuple[Cost, Any]:
    own = shared | {_storage(tensor) for tensor in (*owner.parameters(), *owner.buffers())}
    held: dict[int, Any] = {}

    def hold(tensor: Tensor) -> Tensor:
        if tensor.is_meta and _storage(tensor) not in own:
            held[_storage(tensor)] = tensor.untyped_storage()  # kept, so that its number is not given to another
        return tensor

    inputs = [
        module.register_forward_pre_hook(
            lambda module, args: [hold(x) for x in args[:1] if isinstance(x, Tensor)] and None
        )
        for module in owner.modules()
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing
    ]
    with without_numbers(), FlopCounterMode(display=False) as counter, saved_tensors_hooks(hold, lambda tensor: tensor):
        result = run()
        forward, saved = counter.get_total_flops(), sum(storage.nbytes() for storage in held.values())
        outputs = [x for x in tree_leaves(result) if isinstance(x, Tensor) and x.requires_grad]
        if outputs:
            torch.autograd.backward(outputs, [torch.ones_like(x) for x in outputs])
    for hook in inputs:
        hook.remove()
    for parameter in owner.parameters():
        parameter.grad = None
    return Cost(forward, counter.get_total_flops() - forward, 0.0, saved), result


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class _Mixed(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps integers on the CPU, with their numbers, and moves them to the meta device where they meet a feature."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        on_meta = [tensor.is_meta for tensor in tensors]
        device = kwargs.get("device")
        if device is not None and any(on_meta):
            kwargs["device"] = torch.device("meta")  # also where a feature is moved to the device of its token ids
        elif device is not None and not _dtype_of(func, tensors, args, kwargs).is_floating_point:
            kwargs["device"] = torch.device("cpu")
        if any(on_meta) and not all(on_meta):
            if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
                args = (args[0], _as_places(args[1]), *args[2:])
            args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
        return func(*args, **kwargs)


def _dtype_of(func: Any, tensors: list[Tensor], args: Any, kwargs: dict[str, Any]) -> torch.dtype:
    """The dtype of what a function will make."""
    dtype = kwargs.get("dtype")
    if dtype is None and tensors:
        dtype = tensors[0].dtype
    if dtype is None and func.overloadpacket is aten.arange and all(isinstance(x, int) for x in args):
        dtype = torch.int64
    return dtype or torch.get_default_dtype()


def _as_places(indices: Any) -> list[Any]:
    """Indices of a tensor with masks as places: how many a mask selects is not known without its numbers."""
    places: list[Any] = []
    for index in indices:
        is_mask = isinstance(index, Tensor) and index.dtype == torch.bool and not index.is_meta
        places += index.nonzero(as_tuple=True) if is_mask else [index]
    return places


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention as the kernels of GPUs do it: no matrix of scores is kept, and the backward pass makes it again."""
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    lead = query.shape[:-3]
    query, key, value = (x.reshape(-1, *x.shape[-3:]).transpose(1, 2) for x in (query, key, value))
    attended = aten._scaled_dot_product_efficient_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), None, query.requires_grad, dropout_p, False
    )[0]
    return attended.reshape(*lead, *attended.shape[1:])  # type: ignore[no-any-return]
