"""How an index stores vectors in fewer bytes: int8 codes between calibrated bounds, or one bit a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Precision = Literal["int8", "binary"]

_LEVELS = 256


@dataclass(frozen=True)
class Bounds:
    """The range of each number of a corpus' vectors, which int8 divides into 256 steps.

    Attributes:
        low: Smallest value of each number, `[dim]`.
        high: Largest value of each number, `[dim]`.
    """

    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, vectors: Tensor) -> Bounds:
        """The bounds of some vectors, `[rows, dim]`, at least one."""
        return cls(vectors.amin(0), vectors.amax(0))

    def joined(self, other: Bounds) -> Bounds:
        """The bounds of both."""
        return Bounds(torch.minimum(self.low, other.low), torch.maximum(self.high, other.high))

    @property
    def step(self) -> Tensor:
        """Width of a step of each number, `[dim]`; 1 where all values are equal."""
        step = (self.high - self.low) / (_LEVELS - 1)
        return torch.where(step == 0, torch.ones_like(step), step)


def int8_codes(vectors: Tensor, bounds: Bounds) -> Tensor:
    """The codes -128..127 of vectors, as int8 `[rows, dim]`; values out of bounds get the nearest code.

    They are those of sentence-transformers' `quantize_embeddings(vectors, "int8", ranges)`.

    Args:
        vectors: `[rows, dim]`.
        bounds: The bounds of the corpus.
    """
    levels = ((vectors - bounds.low) / bounds.step).floor().clamp(0, _LEVELS - 1)
    return (levels - _LEVELS // 2).to(torch.int8)


def int8_values(codes: Tensor, bounds: Bounds) -> Tensor:
    """What codes stand for: the middle of their steps, `[rows, dim]`; exact where all values of a number are equal."""
    middle = torch.where(bounds.high > bounds.low, 0.5, 0.0).to(bounds.low.dtype)
    return (codes.to(bounds.low.dtype) + _LEVELS // 2 + middle) * bounds.step + bounds.low


def signs(vectors: Tensor) -> Tensor:
    """1 where a number is above 0, else -1: `[rows, dim]`.

    Their inner product is `dim - 2 · Hamming distance` of the bits of `quantize_embeddings(vectors, "binary")`.
    """
    return torch.where(vectors > 0, 1.0, -1.0).to(vectors.dtype)


def stored(vectors: Tensor, precision: Precision, bounds: Bounds) -> Tensor:
    """Unit vectors as an index compares them after it has stored them, `[rows, dim]`.

    Args:
        vectors: Unit vectors, `[rows, dim]`.
        precision: `int8` or `binary`.
        bounds: The bounds of the corpus; binary needs none.
    """
    if precision == "binary":
        return functional.normalize(signs(vectors), dim=-1)
    return int8_values(int8_codes(vectors, bounds), bounds)


def bytes_of(dim: int, precision: Literal["float32", "int8", "binary"]) -> int:
    """Bytes of one stored vector of `dim` numbers."""
    return {"float32": 4 * dim, "int8": dim, "binary": -(-dim // 8)}[precision]
