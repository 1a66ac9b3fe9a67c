"""Operations and activations of a vision-language model of any family, counted by running its layers without numbers.

One layer of each kind of the decoder runs at two lengths (`trace`). Its operations are a square and a linear term in
the tokens of a row, which two lengths give exactly. The tower and the projector run whole, on one picture of each size
(`embedrl.planning.pictures`). Every layer counts whole, also the last one of a Qwen3-VL, which computes no more than
what is read of it (`embedrl.models.qwen_vl.last_layer`): of 28 layers, that is up to 3 % less.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from embedrl.planning.rows import Mix
from embedrl.planning.tracing import Cost, trace, without_numbers

LENGTHS = (128, 256)
"""Tokens of the rows that are run: whole blocks of linear attention, and more than one."""


@dataclass(frozen=True)
class Curve:
    """What a row of some tokens costs.

    Attributes:
        square: Cost for each pair of tokens.
        linear: Cost of each token.
    """

    square: Cost
    linear: Cost

    def __call__(self, tokens: float) -> Cost:
        """The cost of a row."""
        return self.square * tokens**2 + self.linear * tokens

    @classmethod
    def through(cls, costs: list[Cost]) -> Curve:
        """The curve through the costs at `LENGTHS`."""
        short, long = LENGTHS
        square = (costs[1] * (1 / long) + costs[0] * (-1 / short)) * (1 / (long - short))
        linear = costs[0] * (1 / short) + square * -short
        slope = (costs[1] + costs[0] * -1) * (1 / (long - short))
        # No kernel keeps anything for pairs of tokens.
        return cls(replace(square, saved=0.0, kept=0.0), replace(linear, saved=slope.saved, kept=slope.kept))


@dataclass(frozen=True)
class Flops:
    """The decoder of a model on the meta device.

    Attributes:
        text: The decoder's layers.
        layer: The bytes that the largest of them saves for its backward pass.
        head: The LM head, for each token.
        cache: Bytes of keys, values and states that generation keeps for each token.
    """

    text: Curve
    layer: Callable[[float], float]
    head: Cost
    cache: float

    @classmethod
    def of(cls, model: Any, compute: int = 4, projection: nn.Linear | None = None) -> Flops:
        """Count a model.

        Args:
            model: A vision-language backbone or Reasoner, built on the meta device.
            compute: Bytes of a number in the forward pass.
            projection: A layer that every token goes through behind the decoder (`LateInteraction`).
        """
        decoder = model.core.get_decoder()
        carries = any(p.requires_grad for p in model.parameters())
        head = model.network.get_output_embeddings()
        dtype = torch.bfloat16 if compute == 2 else torch.float32
        kinds = _kinds(list(decoder.layers))
        curves: dict[int, list[Cost]] = {}
        rests = []
        for length in LENGTHS:
            rest, calls = _record(decoder, length)
            rests.append(rest)
            for index in kinds:
                curves.setdefault(index, []).append(_layer_cost(decoder.layers[index], calls[index], dtype, carries))
        layers = {index: Curve.through(costs) for index, costs in curves.items()}
        whole = [sum((costs[i] * kinds[index] for index, costs in curves.items()), rests[i]) for i in (0, 1)]
        text = Curve.through(whole)
        if projection is not None:
            text = replace(text, linear=text.linear + _token_cost(projection, carries))
        return cls(
            text,
            lambda tokens: max(curve(tokens).saved for curve in layers.values()),
            _token_cost(head, carries),
            _cache_bytes(decoder, kinds, dtype),
        )

    def forward(self, mix: Mix) -> float:
        """Operations of a forward pass over rows, without the LM head."""
        return self._sum(mix, lambda cost: cost.forward)

    def backward(self, mix: Mix) -> float:
        """Operations of a backward pass over rows, without the LM head."""
        return self._sum(mix, lambda cost: cost.backward)

    def again(self, mix: Mix) -> float:
        """Operations of computing the layers again that gradient checkpointing did not keep."""
        return self._sum(mix, lambda cost: cost.again)

    def _sum(self, mix: Mix, part: Callable[[Cost], float]) -> float:
        return sum(
            count * (part(self.text(row.length)) + sum(part(picture.cost) for picture in row.pictures))
            for row, count in mix
        )

    def written(self, prompt: int, reply: int) -> float:
        """Operations of writing a reply behind a prompt that was read, the LM head's included."""
        pairs = prompt * reply + reply**2 / 2
        text = self.text.linear.forward * reply + self.text.square.forward * pairs
        return text + self.head.forward * reply

    def vision_tower(self, mix: Mix) -> float:
        """Operations of a frozen tower on rows, which a further pass saves; 0 for a trained one."""
        return sum(count * sum(picture.tower for picture in row.pictures) for row, count in mix)


class _Recorder(nn.Module):
    """Stands for a layer: keeps what it was called with, and returns its first input."""

    def __init__(self) -> None:
        super().__init__()
        self.call: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Keep the call."""
        self.call = args, kwargs
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        return hidden


def _kinds(layers: list[nn.Module]) -> dict[int, int]:
    """The last layer of each kind, in their order → how many of it there are."""
    last: dict[Any, list[int]] = {}
    for index, layer in enumerate(layers):
        shapes = tuple((name, p.shape, p.requires_grad) for name, p in layer.named_parameters())
        last.setdefault((type(layer), shapes), []).append(index)
    # The last: layers that read the keys of an earlier one read those of the last before them.
    return {places[-1]: len(places) for places in sorted(last.values(), key=lambda places: places[-1])}


def _record(decoder: Any, length: int, use_cache: bool = False) -> tuple[Cost, list[Any]]:
    """The cost of a decoder without its layers, and what each of them is called with."""
    layers = decoder.layers
    recorders = [_Recorder() for _ in layers]
    decoder.layers = nn.ModuleList(recorders)
    ids = torch.ones(1, length, dtype=torch.long)
    try:
        cost, _ = trace(lambda: decoder(input_ids=ids, use_cache=use_cache).last_hidden_state, decoder)
    finally:
        decoder.layers = layers
    return Cost(cost.forward, cost.backward), [recorder.call for recorder in recorders]


def _token_cost(layer: nn.Linear, carries: bool) -> Cost:
    """The cost of a linear layer for one token."""
    kind = {"device": "meta", "dtype": layer.weight.dtype, "requires_grad": carries}
    hidden = torch.empty(1, 1, layer.in_features, **kind)  # type: ignore[call-overload]
    return trace(lambda: layer(hidden), layer)[0]


def _layer_cost(layer: nn.Module, call: Any, dtype: torch.dtype, carries: bool) -> Cost:
    layer = copy.deepcopy(layer).to(dtype)
    (hidden, *args), kwargs = _arguments(call, dtype)
    return trace(lambda: layer(hidden.requires_grad_(carries), *args, **kwargs), layer, (args, kwargs))[0]


def _arguments(call: Any, dtype: torch.dtype) -> Any:
    """The arguments of a layer, features in a dtype and of no graph; a cache stays the same object."""

    def alone(value: Any) -> Any:
        return value.detach().to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    args, kwargs = call
    if not args:
        args, kwargs = (kwargs["hidden_states"],), {k: v for k, v in kwargs.items() if k != "hidden_states"}
    for shared in (value for value in kwargs.values() if isinstance(value, MutableMapping)):
        for name, values in list(shared.items()):  # read by later layers, with gradients
            shared[name] = tree_map(lambda x: alone(x).requires_grad_(x.requires_grad), values)
    return tree_map(alone, (args, kwargs))


def _cache_bytes(decoder: Any, kinds: dict[int, int], dtype: torch.dtype) -> float:
    """Bytes for each token: what the cache grows by from the shorter to the longer row."""
    held = []
    for length in LENGTHS:
        with torch.no_grad():
            _, calls = _record(decoder, length, use_cache=True)
            total = 0.0
            for index, count in kinds.items():
                (hidden, *args), kwargs = _arguments(calls[index], dtype)
                with without_numbers():
                    # Checkpointing would leave the cache out.
                    copy.deepcopy(decoder.layers[index]).to(dtype).eval()(hidden, *args, **kwargs)
                cache = kwargs["past_key_values"]
                if index < len(cache.layers):  # a layer that reads the keys of an earlier one has none
                    parts = tree_leaves(list(vars(cache.layers[index]).values()))
                    total += count * sum(x.nbytes for x in parts if isinstance(x, Tensor))
            held.append(total)
    return (held[1] - held[0]) / (LENGTHS[1] - LENGTHS[0])
