"""The contract of a model that loads its weights late, is sharded, and is exported: Embedders and Reasoners alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Loadable(nn.Module, ABC):
    """A model that costs nothing to construct; `build` loads its weights.

    A subclass takes plain values in `__init__` (they come from YAML), stores them under the same names, and creates
    modules in `build`, which the LightningModule calls in `configure_model`.
    """

    forward_methods: tuple[str, ...] = ()
    """Methods besides `forward` that run the network; FSDP2 must know them (`register_fsdp_forward_method`)."""

    @abstractmethod
    def build(self) -> None:
        """Create the modules, load weights, add LoRA, freeze what is frozen; does nothing when called again."""

    def build_on_meta(self) -> None:
        """Create the modules that `build` creates, on the meta device: this process gets the weights from another one.

        They must have the names, shapes and frozen parts of `build`'s. Does nothing when called again. By default it is
        `build` itself, whose tensors are meant for the meta device then; where that reads the weights, leave them out.
        """
        with torch.device("meta"):
            self.build()

    def shard_units(self) -> list[nn.Module]:
        """The modules to shard and checkpoint one by one under FSDP2, inner ones first.

        Ranks reduce gradients in every backward pass: each trained parameter must have one, of zeros if a micro-batch
        does not use it.
        """
        return []

    def reading_options(self) -> dict[str, Any]:
        """What the model needs besides its weights to read as it did in training; plain values. An export keeps it."""
        return {}

    @property
    def merges(self) -> bool:
        """Whether an adapter can be folded into the weights; routed experts cannot (`lora.experts`)."""
        return True

    @abstractmethod
    def export(self, out: Path, merge: bool = True) -> None:
        """Write a checkpoint that other libraries load.

        Args:
            out: The folder to write.
            merge: True folds LoRA into the weights; False writes the adapter alone.
        """
