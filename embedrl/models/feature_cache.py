"""Caches the features of a frozen tower, so that it runs once for each input of a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor


class FeatureCache:
    """A frozen tower that does not compute the same features twice.

    Rows are computed one by one: a row's features are then bit-identical whatever batch it first came in, and a resumed
    run repeats the uninterrupted one.

    Args:
        tower: Frozen, and without randomness: rows `[rows, ...]` → features `[rows, dim]`.
        limit: Cache at most this many rows; further ones are computed each time.
    """

    def __init__(self, tower: Callable[[Tensor], Tensor], limit: int) -> None:
        self.tower = tower
        self.limit = limit
        self.features: dict[bytes, Tensor] = {}

    @torch.no_grad()
    def __call__(self, rows: Tensor) -> Tensor:
        """The features of a batch, `[rows, dim]`."""
        return torch.stack([self._row(row) for row in rows])

    def _row(self, row: Tensor) -> Tensor:
        key = hashlib.blake2b(row.contiguous().cpu().view(torch.uint8).numpy().data, digest_size=16).digest()
        features = self.features.get(key)
        if features is None:
            features = self.tower(row[None])[0]
            if len(self.features) < self.limit:
                self.features[key] = features
        return features
