"""What routers did in a batch: their balance loss over all of it, its gradient, and a fingerprint of each side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from embedrl.distributed.collectives import mean_over_ranks, world_size


@dataclass
class Routing:
    """The figures of the routers of a model, over the micro-batches of a batch and all processes.

    The balance loss is Switch Transformer's (arXiv 2101.03961, Eq. 4), mean over layers: experts · Σ_e f_e · P_e, where
    f_e is the share of the batch's choices that are expert e and P_e its mean probability. It is that of the whole
    batch: a first pass adds f and P up, and as f has no gradient, the loss is linear in the probabilities. So each
    token's gradient is known then, and is added to it wherever the backward pass comes by, in any micro-batch. That is
    exact, whatever gradient caching and checkpointing compute twice.

    Attributes:
        experts: Number of experts of a layer.
        balance: Weight of the balance loss.
        text: The layers (by number) that read rows of a side's tokens.
        gradient: Gradient of the loss with respect to each token's probabilities, `[layers, experts]`; None: none.
    """

    experts: int
    balance: float
    text: list[int] = field(default_factory=list)
    gradient: Tensor | None = None
    _layers: int = 0
    _collecting: bool = False
    _counted: bool = True
    _mask: Tensor | None = None  # which tokens count
    _pooled: Tensor | None = None  # places of the pooled tokens in the flattened rows
    _sums: dict[int, Tensor] = field(default_factory=dict)
    _prints: list[Tensor] = field(default_factory=list)
    _mean: Tensor | None = None

    def add_layer(self) -> int:
        """The number of a further layer."""
        self._layers += 1
        return self._layers - 1

    def begin(self, mask: Tensor, pooled: Tensor) -> None:
        """A micro-batch enters the model.

        Args:
            mask: Which tokens count, `[rows, length]`.
            pooled: Where the pooled token of each side lies in the flattened rows, `[sides]`.
        """
        self._mask, self._pooled = mask.bool(), pooled
        if self._collecting and self._counted:
            self._prints.append(torch.zeros(len(pooled), self.experts, device=mask.device))

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """While open, passes are those of a new batch, and are added up."""
        self._sums, self._prints, self._mean, self.gradient = {}, [], None, None
        self._collecting = True
        try:
            yield
        finally:
            self._collecting = False

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """While open, passes are repetitions that only keep the processes together: no token counts."""
        self._counted = False
        try:
            yield
        finally:
            self._counted = True

    def again(self) -> PassAgain:
        """A context, of any number of uses, in which a part of the present pass can be computed again."""
        return PassAgain(self, self._state)

    @property
    def _state(self) -> tuple[Tensor | None, bool]:
        return self._mask, self._counted

    @_state.setter
    def _state(self, state: tuple[Tensor | None, bool]) -> None:
        self._mask, self._counted = state

    def weights(self, chances: Tensor, layer: int) -> Tensor:
        """How much each token counts, 0 or 1, `[..., 1]`."""
        weights = chances.new_full((*chances.shape[:-1], 1), float(self._counted))
        if layer in self.text and self._mask is not None:
            weights = weights * self._mask.reshape(weights.shape).to(weights.dtype)
        return weights

    def record(self, chances: Tensor, taken: Tensor, weights: Tensor, layer: int) -> None:
        """Add up what a layer's router did.

        Args:
            chances: Probabilities, `[..., experts]`.
            taken: Which experts were chosen, 0 or 1, same shape.
            weights: See `weights`.
            layer: The layer's number.
        """
        if not (self._collecting and self._counted):
            return
        log = chances.clamp_min(torch.finfo(chances.dtype).tiny).log()
        figures = [taken * weights, chances * weights, -chances * log * weights]
        rows = [figure.flatten(0, -2).double().sum(0) for figure in figures]
        rows.append(weights.double().sum().expand(self.experts))
        total = torch.stack(rows)
        self._sums[layer] = self._sums[layer] + total if layer in self._sums else total
        if layer in self.text and self._prints:
            self._prints[-1] += chances.flatten(0, -2)[self._pooled]

    def fingerprints(self) -> Tensor | None:
        """Of each side the probabilities at its pooled token, mean over the layers of text, `[sides, experts]`.

        Sides are in the order of the micro-batches. None if no such layer has a router.
        """
        if not self.text or not self._prints:
            return None
        return torch.cat(self._prints) / len(self.text)

    def loss(self, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted balance loss of the batch on all processes, which call together, and figures to log.

        Args:
            device: Where the model computes.

        Returns:
            A scalar, whose backward pass is to be followed by `send_back`, and metrics.
        """
        zero = torch.zeros(4, self.experts, dtype=torch.float64, device=device)
        own = torch.stack([self._sums.get(layer, zero) for layer in range(self._layers)])
        sums = mean_over_ranks(own) * world_size()
        self._tokens = sums[:, 3, :1].clamp_min(1.0)
        share = sums[:, 0] / sums[:, 0].sum(-1, keepdim=True).clamp_min(1.0)
        self._mean = (sums[:, 1] / self._tokens).float().requires_grad_()
        used = sums[:, 3, 0] > 0  # a vision tower may have had no picture
        layers = used.sum().clamp_min(1)
        balance = self.experts * (share.float() * self._mean).sum() / layers
        entropy = (sums[:, 2].sum(-1, keepdim=True) / self._tokens).sum() / layers
        metrics = {f"router/load/{i}": load.float() for i, load in enumerate(share.sum(0) / layers)}
        metrics |= {"router/entropy": entropy.float(), "router/balance": balance.detach()}
        return self.balance * balance, metrics

    def send_back(self, scale: float) -> None:
        """Let the backward passes that follow add the balance loss's gradient.

        Args:
            scale: Factor, as for the gradient of the vectors.
        """
        assert self._mean is not None
        assert self._mean.grad is not None
        self.gradient = self._mean.grad * scale / self._tokens.float()


class PassAgain:
    """While open, the pass of a model with routers is the one that it was made in."""

    def __init__(self, routing: Routing, state: Any) -> None:
        self._routing, self._then = routing, state

    def __enter__(self) -> None:
        self._before, self._routing._state = self._routing._state, self._then

    def __exit__(self, *error: object) -> None:
        self._routing._state = self._before


class _AddBalanceGradient(torch.autograd.Function):
    """Leaves probabilities as they are, and adds the balance loss's gradient to theirs."""

    @staticmethod
    def forward(ctx: Any, chances: Tensor, weights: Tensor, routing: Routing, layer: int) -> Tensor:
        ctx.save_for_backward(weights)
        ctx.routing, ctx.layer = routing, layer
        return chances.view_as(chances)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weights,), (gradient,) = ctx.saved_tensors, gradients
        own = ctx.routing.gradient
        if own is not None:
            gradient = gradient + weights * own[ctx.layer].to(gradient)
        return gradient, None, None, None


def add_balance_gradient(chances: Tensor, taken: Tensor, routing: Routing, layer: int) -> Tensor:
    """The probabilities, whose gradient will be the one with the balance loss's; `routing` learns of them.

    Args:
        chances: Probabilities, `[..., experts]`.
        taken: Which experts were chosen, 0 or 1, same shape.
        routing: What the model's routers tell.
        layer: The layer's number.
    """
    weights = routing.weights(chances, layer)
    routing.record(chances.detach(), taken, weights, layer)
    out: Tensor = _AddBalanceGradient.apply(chances, weights, routing, layer)
    return out
