"""How sure a raw query is of its best candidate, and which queries are to think first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from embedrl.errors import ConfigError


@dataclass(frozen=True)
class ConfidenceGate:
    """Which queries get a T-CoT: those whose raw vector is not sure of its best candidate.

    A query is as sure as its Δs is large: the similarity of its best candidate, less the mean of those that come after
    it. Thinking on demand of TWN (arXiv 2605.14448) and MMEmb-R1 (arXiv 2604.06156) learns its gate; this one has
    nothing to learn.

    Attributes:
        below: A query thinks if its Δs is below this. 0 or less: nobody thinks; 3 or more: everybody.
        share: In its place: this share of a task's queries thinks, those of the least Δs. 0: nobody; 1: everybody.
        top: The best candidate is compared with the next `top - 1` ones; 2 is the Δs of reports.
    """

    below: float | None = None
    share: float | None = None
    top: int = 2

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: If one is out of its range, or not one of `below` and `share` is given.
        """
        if (self.below is None) == (self.share is None):
            raise ConfigError("gate: give gate.below (a Δs, such as 0.05) or gate.share (0 to 1), one of both")
        if self.below is not None and math.isnan(self.below):
            raise ConfigError("gate.below is nan: give a Δs, such as 0.05")
        if self.share is not None and not 0 <= self.share <= 1:
            raise ConfigError(f"gate.share is {self.share}: give 0 (nobody thinks) to 1 (everybody)")
        if self.top < 2:
            raise ConfigError(f"gate.top is {self.top}: give 2 or more, as the best candidate is compared with others")

    def thinks(self, scores: Tensor) -> Tensor:
        """Which queries think, bool, `[queries]`; of equally sure ones all or none.

        Args:
            scores: Similarities of each raw query's best candidates, best first, `[queries, at least top]`; -inf where
                there are fewer.
        """
        gaps = delta_s(scores, self.top)
        if self.share is None:
            assert self.below is not None
            # Candidates that are equal are no reason to think for someone who lets nobody think.
            return (gaps < self.below) & (self.below > 0)
        count = math.floor(self.share * len(gaps) + 0.5)
        if count == 0:
            return torch.zeros_like(gaps, dtype=torch.bool)
        return gaps <= gaps.sort().values[count - 1]

    def thinks_of(self, scores: Sequence[float]) -> bool:
        """Whether one query thinks, see `thinks`; with no candidate or one it does not.

        Args:
            scores: Similarities of its best candidates, best first.
        """
        return bool(scores) and bool(self.thinks(torch.tensor([list(scores)], dtype=torch.float64))[0])


def check_auto(reason: bool | str, gate: ConfidenceGate | None) -> None:
    """Check the gate of a single search.

    Args:
        reason: Whether the query thinks; `auto` leaves it to the gate.
        gate: The gate, if there is one.

    Raises:
        ConfigError: If one of both is missing, or the gate is a share, which needs many queries.
    """
    if (reason == "auto") != (gate is not None) or (gate is not None and gate.below is None):
        raise ConfigError("--reason auto goes with --gate.below, the Δs below which a query thinks: give both")


def delta_s(scores: Tensor, top: int = 2) -> Tensor:
    """Similarity of the best candidate less the mean of the next ones, `[queries]`.

    Args:
        scores: Similarities of the best candidates, best first, `[queries, candidates]`; -inf where there are fewer.
        top: How many of them are compared; a query with one candidate alone is sure (inf).
    """
    others = scores[:, 1:top].double()
    there = torch.isfinite(others)
    count = there.sum(1)
    mean = torch.where(there, others, 0.0).sum(1) / count.clamp_min(1)
    return torch.where(count > 0, scores[:, 0].double() - mean, torch.inf)
