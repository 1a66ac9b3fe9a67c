"""Gradients of a frozen embedding's output, which gradient checkpointing of the layers behind it needs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def need_input_gradients(network: Any) -> None:
    """Let the output of the token embedding need gradients, and no other input.

    `enable_input_require_grads` of transformers, which switching on gradient checkpointing calls, does so for the input
    of the vision tower too, which then takes a backward pass of its own where nothing of it is trained.

    Args:
        network: The model with its LM head.
    """
    if hasattr(network, "_require_grads_hooks"):
        network.disable_input_require_grads()
    network.get_input_embeddings().register_forward_hook(_need)


def _need(module: nn.Module, inputs: Any, output: Tensor) -> None:
    output.requires_grad_(True)
