"""Gradient caching: a contrastive batch of any size in the memory of one micro-batch.

The loss needs the vectors of the whole batch at once, but the vectors need no graph: encode every micro-batch without
gradients, compute the loss on the vectors, keep its gradient with respect to them, then encode every micro-batch again,
this time with a graph, and push the kept gradient through. Each second pass starts from the random state of its first,
so dropout is the same and the result is exact; the features of a frozen vision tower are cached in the first pass.
Source: Embed-RL B.1 (mini-batched forward); Gao et al., 2101.06983.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from embedrl.data.inputs import ModelInputs
from embedrl.utils.ragged import cat_rows, narrow_to

RandomState = tuple[Tensor, Tensor | None]


class GradientCache:
    """Computes the vectors of one batch, and the model's gradients from the gradient of the vectors.

    Use it as `vectors = cache.forward()`, then a loss on `vectors` and its backward pass, then
    `cache.backward(vectors.grad)`. With a single micro-batch the graph of the only pass is kept instead.

    Args:
        encode: Embeds one micro-batch: `[rows, dim]`, or `[rows, tokens, dim]` padded with zeros.
        micro_batches: What to embed.
        device: Where `encode` computes; its random state is the one that dropout draws from.
        calls: How often `encode` is called in each pass, at least once per micro-batch. Ranks that exchange data inside
            `encode` must agree on it: the last micro-batch is repeated with a gradient of zero.
        recompute: False keeps the graphs of all micro-batches instead of encoding twice: the same gradients in two
            thirds of the time, in memory that grows with the batch.
        cache_vision_features: `Backbone.cache_vision_features` of the model that `encode` runs.
        uncounted: Opened around the repetitions: what the model adds up over a batch leaves them out (`Routing`).
    """

    def __init__(
        self,
        encode: Callable[[ModelInputs], Tensor],
        micro_batches: Sequence[ModelInputs],
        device: torch.device,
        calls: int | None = None,
        recompute: bool = True,
        cache_vision_features: Callable[[list[Any]], AbstractContextManager[Any]] = nullcontext,
        uncounted: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._encode = encode
        self._sizes: list[int] = []
        self._extra = max(0, (calls or 0) - len(micro_batches))
        self._micro_batches = [*micro_batches, *[micro_batches[-1]] * self._extra]
        self._device = device
        self._states: list[RandomState] = []
        self._seen: list[list[Any]] = [[] for _ in self._micro_batches]
        self._look_once = cache_vision_features
        self._uncounted = uncounted
        self._keep = not recompute or len(self._micro_batches) == 1
        self._kept: list[Tensor] = []
        # Lightning's autocast covers training_step but not the backward pass: enter the same one again there.
        self._dtype = torch.get_autocast_dtype(device.type)
        self._enabled = torch.is_autocast_enabled(device.type)

    def forward(self) -> Tensor:
        """First pass.

        Returns:
            The vectors of all micro-batches, `[rows, dim]` or `[rows, tokens, dim]`, a leaf that collects a gradient.
        """
        vectors = []
        with torch.set_grad_enabled(self._keep), self._autocast():
            for i, (inputs, seen) in enumerate(zip(self._micro_batches, self._seen, strict=True)):
                self._states.append(_random_state(self._device))
                with nullcontext() if self._keep else self._look_once(seen), self._counting(i):
                    vectors.append(self._encode(inputs))
        if self._keep:
            self._kept = list(vectors)
        vectors = vectors[: len(vectors) - self._extra]
        self._sizes = [len(v) for v in vectors]
        return cat_rows(vectors).detach().requires_grad_()

    def backward(self, gradient: Tensor, before_last: Callable[[Tensor], Tensor] = lambda output: output) -> None:
        """Second pass: add to the parameters' gradients. May be called again: it then encodes once more.

        Args:
            gradient: The loss's gradient with respect to the vectors, `[rows, dim]`.
            before_last: Called with the scalar of the last backward pass; returns the scalar to use (`GradientSync`).
        """
        gradients = [*torch.split(gradient, self._sizes), *[torch.zeros(())] * self._extra]
        devices = [] if self._device.type == "cpu" else [self._device]
        with torch.random.fork_rng(devices, device_type="cuda" if self._device.type == "cpu" else self._device.type):
            for i, (inputs, state, part) in enumerate(zip(self._micro_batches, self._states, gradients, strict=True)):
                if self._kept:
                    vectors = self._kept.pop(0)  # its graph is freed with it
                else:
                    _set_random_state(state, self._device)
                    with torch.enable_grad(), self._autocast(), self._look_once(self._seen[i]), self._counting(i):
                        vectors = self._encode(inputs)
                    self._seen[i].clear()
                output = (vectors * narrow_to(part, vectors).to(vectors.device)).sum()
                if i == len(gradients) - 1:
                    output = before_last(output)
                torch.autograd.backward(output)

    def _counting(self, index: int) -> AbstractContextManager[Any]:
        repeated = index >= len(self._micro_batches) - self._extra
        return self._uncounted() if repeated else nullcontext()

    def _autocast(self) -> AbstractContextManager[None]:
        # Without a cache: weights cast in the first pass have no graph, and must not be used in the second.
        return torch.autocast(self._device.type, dtype=self._dtype, enabled=self._enabled, cache_enabled=False)


def _random_state(device: torch.device) -> RandomState:
    """The state of the CPU's generator and of the device's."""
    on_device = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)
    return torch.get_rng_state(), on_device


def _set_random_state(state: RandomState, device: torch.device) -> None:
    """Restore a state that `_random_state` returned."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.get_device_module(device).set_rng_state(state[1], device)
