"""The hash of a model's weights: what it writes or embeds is kept under it."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn


def weights_hash(module: nn.Module, by_value: bool = False) -> str:
    """Hash of every parameter and buffer that a module saves, with names, shapes and types; LoRA included.

    Args:
        module: A module with its weights.
        by_value: Leave types out: weights of 16 bits have the hash that they have as float32.

    Returns:
        64 hexadecimal digits.
    """

    def one(item: tuple[str, Any]) -> bytes:
        name, value = item
        digest = hashlib.sha256(name.encode() + b"\0")
        if not isinstance(value, Tensor):
            digest.update(repr(value).encode())
            return digest.digest()
        if by_value and value.is_floating_point():
            value = value.float()
        digest.update(f"{value.dtype} {tuple(value.shape)}\0".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.digest()

    with ThreadPoolExecutor() as pool:  # hashlib lets other threads run
        return hashlib.sha256(b"".join(pool.map(one, sorted(module.state_dict().items())))).hexdigest()
