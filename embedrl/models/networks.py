"""Reading the network of a checkpoint: with its weights, or empty."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModel, AutoModelForImageTextToText, GenerationConfig

from embedrl.errors import CheckpointError, unreadable
from embedrl.models.adapters import adapter_base
from embedrl.models.checkpoint_files import check_loaded, unread
from embedrl.models.expert_files import take_adapter, take_shape


@dataclass(frozen=True)
class NetworkReader:
    """How the checkpoints of a family, or of any family, become networks.

    A folder with a LoRA adapter counts as its base with the adapter merged, or with the experts beside the weights.

    Attributes:
        cls: The class of transformers that reads the weights.
        config: The configuration of a checkpoint.
        place: A checkpoint as transformers takes it: a folder or a Hub name.
        tiny: The network with random weights that a path names, made of a configuration and an attention
            implementation; None if the path names none.
        cure: What to do about weights that cannot be read.
    """

    cls: Any
    config: Callable[[str], Any]
    place: Callable[[str], str]
    tiny: Callable[[str, Any, str], Any]
    cure: str

    def load(self, path: str, dtype: torch.dtype | str, attn_implementation: str) -> Any:
        """The network with its weights, from safetensors alone.

        Args:
            path: The checkpoint.
            dtype: Type of the weights; auto for the checkpoint's own.
            attn_implementation: As transformers takes it.

        Raises:
            CheckpointError: If weights are missing, left over, or of another shape; the message names them.
        """
        if base := adapter_base(path):
            return take_adapter(self.load(base, dtype, attn_implementation), path)
        network = self.tiny(path, copy.deepcopy(self.config(path)), attn_implementation)
        if network is not None:
            return network.to(torch.float32 if dtype == "auto" else dtype)
        with unreadable(unread(path, "the weights"), self.cure, CheckpointError):
            network, info = self.cls.from_pretrained(
                self.place(path),
                dtype=dtype,
                attn_implementation=attn_implementation,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that the misfits are reported by name below
            )
        check_loaded(path, info, ("missing_keys", "unexpected_keys", "mismatched_keys"))
        return network

    def empty(self, path: str, dtype: torch.dtype | str, attn_implementation: str) -> Any:
        """The network that `load` returns, without its weights; call it under `torch.device("meta")`.

        Where the weights decide on the dtype (`auto`, and config.json does not say), it may differ.

        Args:
            path: The checkpoint.
            dtype: As of `load`.
            attn_implementation: As of `load`.

        Raises:
            CheckpointError: If config.json cannot be read.
        """
        if base := adapter_base(path):
            return take_shape(self.empty(base, dtype, attn_implementation), path)
        config = copy.deepcopy(self.config(path))  # what follows writes into it
        dtype = (config.dtype or torch.float32) if isinstance(dtype, str) else dtype
        network = self.tiny(path, config, attn_implementation)
        if network is not None:
            return network.to(dtype)
        made: Any = AutoModel if self.cls is AutoModel else AutoModelForImageTextToText
        network = made.from_config(config, dtype=dtype, attn_implementation=attn_implementation)
        # A checkpoint without the file has what its config.json says, which the model was made with.
        with suppress(OSError):
            network.generation_config = GenerationConfig.from_pretrained(self.place(path))
        return network
