"""LoRA experts: linear layers with several low-rank updates, of which a router takes some for each token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import Linear
from torch import Tensor, nn

from embedrl.errors import ConfigError
from embedrl.models.routing import Routing, add_balance_gradient

MERGE = (
    "lora.experts: routed experts cannot be merged into the weights, as every token takes others: export the adapter "
    "alone (--adapter true), which embedrl loads"
)


@dataclass(frozen=True, slots=True)
class ExpertOptions:
    """Several LoRA updates a layer, chosen token by token. In the spirit of TSEmbed (arXiv 2603.04772).

    Attributes:
        count: Number of experts in each adapted layer, each of rank `lora.r`. One expert is plain LoRA.
        top_k: How many of them a token takes: those that its router finds likeliest, weighted by their probabilities,
            which are scaled to sum to 1.
        balance: Weight of the balance loss in the training loss; 0 lets experts fall out of use.
    """

    count: int = 4
    top_k: int = 2
    balance: float = 0.01

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"lora.experts.count is {self.count}: give 1 or more, or experts: null for plain LoRA")
        if not 1 <= self.top_k <= self.count:
            raise ConfigError(
                f"lora.experts.top_k is {self.top_k}, but there are {self.count} experts: give 1 to {self.count}"
            )
        if not 0 <= self.balance < float("inf"):
            raise ConfigError(f"lora.experts.balance is {self.balance}: give 0 or more, such as 0.01")


class RoutedLinear(Linear):  # type: ignore[misc]  # peft has no types
    """A linear layer of peft whose low-rank update is a mixture of experts.

    `lora_A` holds the experts' first factors one below the other, `[experts · r, in]`, `lora_B` their second ones side
    by side, `[out, experts · r]`. So all experts are computed, as fast as LoRA of rank `experts · r`; a token's weight
    of an expert, 0 for those that it does not take, scales the r numbers between its factors. Dropout is the same for
    all experts, and the router reads the input without it.

    Args:
        base_layer: The layer to adapt.
        adapter_name: Name of the adapter; only one adapter can be there.
        config: peft's configuration.
        experts: Number of experts.
        top_k: How many a token takes.
        routing: What the routers of the model tell.
        **kwargs: See `peft.tuners.lora.Linear`.
    """

    adapter_layer_names = (*Linear.adapter_layer_names, "lora_router")

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        config: LoraConfig,
        experts: int,
        top_k: int,
        routing: Routing,
        **kwargs: Any,
    ) -> None:
        super().__init__(base_layer, adapter_name, config, **kwargs)
        self.experts, self.top_k = experts, top_k
        self.routing, self.layer = routing, routing.add_layer()
        weight = self.lora_A[adapter_name].weight
        if experts > 1:  # a softmax over one is 1
            options = {"dtype": weight.dtype, "device": weight.device}
            self.lora_router[adapter_name] = nn.Linear(self.in_features, experts, bias=False, **options)

    def update_layer(self, *args: Any, **kwargs: Any) -> None:
        """See `peft.tuners.lora.Linear`, which lists the adapter's parts here for the first time."""
        self.lora_router = nn.ModuleDict()
        super().update_layer(*args, **kwargs)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's output with the experts of each token."""
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        (name,) = self.active_adapters
        first, second = self.lora_A[name], self.lora_B[name]
        x = self._cast_input_dtype(x, first.weight.dtype)
        low = first(self.lora_dropout[name](x))
        if name in self.lora_router:
            gates = self._gates(self.lora_router[name](x))
            low = (low.unflatten(-1, (self.experts, -1)) * gates[..., None].to(low.dtype)).flatten(-2)
        mixed: Tensor = result + second(low) * self.scaling[name]
        return mixed.to(result.dtype)

    def _gates(self, logits: Tensor) -> Tensor:
        """Weight of each expert for each token, float32, `[..., experts]`."""
        chances = logits.float().softmax(-1)
        best = chances.detach().topk(self.top_k, dim=-1).indices
        taken = torch.zeros_like(chances).scatter(-1, best, 1.0)
        chances = add_balance_gradient(chances, taken, self.routing, self.layer)
        kept = chances * taken
        return kept / kept.sum(-1, keepdim=True)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused: the update depends on the token.

        Raises:
            ConfigError: Always, unless there is one expert.
        """
        if self.experts > 1:
            raise ConfigError(MERGE)
        super().merge(safe_merge, adapter_names)


def routed_config(options: ExpertOptions, r: int, alpha: float, dropout: float, targets: Any) -> LoraConfig:
    """The configuration, as peft takes it, of an adapter with experts; each is scaled by alpha / r.

    Args:
        options: Number and choice of experts.
        r: Rank of each.
        alpha: Scale of each.
        dropout: See `LoRAOptions`.
        targets: peft's `target_modules`.
    """
    count = options.count
    config = LoraConfig(
        r=count * r, lora_alpha=count * alpha, lora_dropout=dropout, target_modules=targets, bias="none"
    )  # fmt: skip
    routing = Routing(count, options.balance)

    def routed(target: nn.Module, adapter_name: str, config: LoraConfig, **kwargs: Any) -> RoutedLinear:
        return RoutedLinear(target, adapter_name, config, count, options.top_k, routing, **kwargs)

    config._register_custom_module({nn.Linear: routed})  # peft calls it, nothing more
    return config


def check_unmerged(merge: bool, trained: bool) -> None:
    """Check that a model with experts is exported as an adapter, by the run that trained it.

    Args:
        merge: Whether its adapter is to be merged.
        trained: Whether it was built to be trained, and not loaded with its experts.

    Raises:
        ConfigError: If not.
    """
    if not trained:
        raise ConfigError("an adapter with experts is an export already and cannot be merged: copy its folder")
    if merge:
        raise ConfigError(MERGE)


def routed_layers(model: nn.Module) -> list[RoutedLinear]:
    """The layers with routers."""
    return [module for module in model.modules() if isinstance(module, RoutedLinear) and module.experts > 1]


def routing_of(model: nn.Module) -> Routing | None:
    """What the routers of a model tell; None if it has none."""
    layers = routed_layers(model)
    return layers[0].routing if layers else None


def name_text_layers(model: nn.Module, text: nn.Module) -> None:
    """Tell the routers of a model which of them read a side's row of tokens.

    Padding does not count in them, and they know the token that is pooled. Elsewhere, as in a vision tower, all rows
    count.

    Args:
        model: The model.
        text: The part of it that reads rows of tokens.
    """
    for layer in routed_layers(model):
        layer.routing.text = [inside.layer for inside in routed_layers(text)]
