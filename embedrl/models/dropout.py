"""Dropout off for one pass of a model that stays in training mode, also where checkpointing computes layers again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Any

from torch import nn

from embedrl.errors import ConfigError
from embedrl.models.experts import routing_of


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """While open, the model draws no random numbers; otherwise it stays in training mode.

    A layer that gradient checkpointing computes again in the backward pass does so as in its forward pass, be the
    context still open or not, if checkpointing was enabled with `as_in_forward`.

    Args:
        model: The model.
    """
    with _Flags([module for module in dropouts(model) if module.training], False):
        yield


def as_in_forward(model: nn.Module) -> Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]:
    """The `context_fn` of `torch.utils.checkpoint` that lets dropout and routers be as they were in the forward pass.

    Args:
        model: The model, with its adapters.
    """
    modules, routing = dropouts(model), routing_of(model)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        off = [module for module in modules if not module.training]
        flags = _Flags(off, False)
        return nullcontext(), flags if routing is None else _Both(flags, routing.again())

    return contexts


def dropouts(model: nn.Module) -> list[nn.Module]:
    """The modules that draw random numbers in training: `nn.Dropout`, and attention layers of transformers that may."""
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.Dropout) or getattr(module, "attention_dropout", 0) > 0
    ]


class _Both:
    """Two contexts as one."""

    def __init__(self, first: AbstractContextManager[None], second: AbstractContextManager[None]) -> None:
        self._first, self._second = first, second

    def __enter__(self) -> None:
        self._first.__enter__()
        self._second.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._second.__exit__(kind, error, at)
        self._first.__exit__(kind, error, at)


class _Flags:
    """Sets the training flag of some modules for a while; may be opened many times, one after the other."""

    def __init__(self, modules: Sequence[nn.Module], training: bool) -> None:
        self._modules, self._training = modules, training

    def __enter__(self) -> None:
        self._before = [module.training for module in self._modules]
        for module in self._modules:
            module.training = self._training

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for module, training in zip(self._modules, self._before, strict=True):
            module.training = training


def checkpoint_layers(network: Any) -> None:
    """Recompute each layer of a model of transformers in the backward pass, with dropout as in the forward pass.

    Raises:
        ConfigError: If the model cannot.
    """
    try:
        network.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": as_in_forward(network)})
    except ValueError as error:
        raise ConfigError(f"backbone.gradient_checkpointing: {error}: set it to false") from error


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Temporarily put a module into `eval` mode: no dropout, no gradient checkpointing."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
