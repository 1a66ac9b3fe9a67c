"""Up to which difficulty a Reasoner succeeds: the combination law of reasoning boundaries, fitted on its rollouts.

Source: RBF (2410.05695) Eq. 3, RBF++ (2505.13307): with the difficulty d_i of a task along several dimensions, the
combined one is `D = 1 / Σ_i N_i / (d_i − b_i)`, a weighted harmonic mean. Success falls with D; it is 90 % at K1 and
10 % at K2. Up to K1 lies what is completely feasible, beyond K2 what is infeasible, between them the partial zone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]
from scipy.special import expit, xlogy  # type: ignore[import-untyped]

from embedrl.errors import DataError

Values = NDArray[np.float64]

FEASIBLE, INFEASIBLE = 0.9, 0.1
"""The success at which the partial zone begins and ends."""
_RIDGE = 1e-3  # keeps offsets finite where a dimension has few values
_FARTHEST = 5.0  # an offset lies at most e^5 below the least difficulty


class Difficulty(Protocol):
    """What is known of how difficult pairs are."""

    def __call__(self, pair_id: str) -> Mapping[str, float]:
        """How difficult a pair is, by dimension: more is harder; the same dimensions for all.

        Args:
            pair_id: Its `Pair.id`.
        """
        ...


@dataclass(frozen=True)
class Boundary:
    """A fitted combination law, and how success falls with the combined difficulty.

    Attributes:
        names: The dimensions.
        weights: N_i, which sum to 1.
        offsets: b_i, each below the least difficulty that was seen.
        intercept: α of `success = 1 / (1 + exp(β log D − α))`.
        slope: β, 0 or more.
        r2: McFadden's R²: how much of the log-likelihood of "all alike" the law explains, 0 to 1.
        pairs: Pairs that it was fitted on.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    offsets: tuple[float, ...]
    intercept: float
    slope: float
    r2: float = 0.0
    pairs: int = 0

    def combined(self, difficulties: Values) -> Values:
        """D of tasks, `[tasks]`.

        Args:
            difficulties: d of each along each dimension, `[tasks, dimensions]`.
        """
        return combine(difficulties, np.array(self.weights), np.array(self.offsets))

    def success(self, difficulties: Values) -> Values:
        """The probability that a rollout succeeds, `[tasks]`."""
        values: Values = expit(self.intercept - self.slope * np.log(self.combined(difficulties)))
        return values

    def at(self, success: float) -> float | None:
        """The combined difficulty at which rollouts succeed this often; None if success does not fall with it.

        >>> Boundary(("x",), (1.0,), (0.0,), intercept=2.0, slope=2.0).at(0.5)
        2.718281828459045
        """
        if self.slope <= 0:
            return None
        exponent = (self.intercept - math.log(success / (1 - success))) / self.slope
        return math.exp(exponent) if exponent < 700 else None


def combine(difficulties: Values, weights: Values, offsets: Values) -> Values:
    """`1 / Σ_i N_i / (d_i − b_i)`.

    Args:
        difficulties: d, `[tasks, dimensions]`.
        weights: N, `[dimensions]`.
        offsets: b, `[dimensions]`: below every difficulty, which are moved up to just above it.

    >>> combine(np.array([[2.0, 6.0]]), np.array([0.5, 0.5]), np.zeros(2)).round(3).tolist()
    [3.0]
    """
    # A pair that is easier than all that was fitted on is as easy as can be.
    above = np.maximum(difficulties - offsets, 1e-6)
    values: Values = 1 / (weights / above).sum(1)
    return values


def fit_boundary(names: Sequence[str], difficulties: Values, successes: Values, trials: Values) -> Boundary:
    """Fit N, b, α and β by maximum likelihood on how often rollouts succeeded: a logistic regression in log D.

    Args:
        names: The dimensions; those in which all pairs are alike have no weight.
        difficulties: d of each pair, `[pairs, dimensions]`.
        successes: How many of a pair's rollouts succeeded, `[pairs]`.
        trials: Of how many, `[pairs]`.

    Raises:
        DataError: If there is nothing to fit: fewer than two pairs, or pairs that are all alike.
    """
    varied = np.ptp(difficulties, axis=0) > 0 if len(difficulties) else np.zeros(len(names), dtype=bool)
    if len(difficulties) < 2 or not varied.any():
        raise DataError(
            f"nothing to fit a boundary on: {len(difficulties)} pairs, which differ in none of {', '.join(names)}"
        )
    used, least = difficulties[:, varied], difficulties[:, varied].min(0)
    scale = np.ptp(used, axis=0)
    count = used.shape[1]

    def unpack(values: Values) -> tuple[Values, Values, float, float]:
        free = np.concatenate([[0.0], values[: count - 1]])
        weights = np.exp(free - free.max())
        return weights / weights.sum(), least - scale * np.exp(values[count - 1 : -2]), values[-2], values[-1]

    def loss(values: Values) -> float:
        weights, offsets, intercept, slope = unpack(values)
        logits = intercept - slope * np.log(combine(used, weights, offsets))
        likelihood = successes * logits - trials * np.logaddexp(0, logits)
        ridge = _RIDGE * float((values[:-2] ** 2).sum())
        return float(-likelihood.sum() / trials.sum()) + ridge

    bounds = [(-6.0, 6.0)] * (count - 1) + [(-_FARTHEST, _FARTHEST)] * count + [(-50.0, 50.0), (0.0, 50.0)]
    starts = [
        np.concatenate([np.zeros(count - 1), np.full(count, spread), [0.0, slope]])
        for spread in (-1.0, 0.0, 1.5)
        for slope in (0.5, 3.0)
    ]
    best = min((minimize(loss, start, method="L-BFGS-B", bounds=bounds) for start in starts), key=lambda r: r.fun)
    weights, offsets, intercept, slope = unpack(best.x)
    all_weights, all_offsets = np.zeros(len(names)), difficulties.min(0) - 1.0
    all_weights[varied], all_offsets[varied] = weights, offsets
    made = Boundary(
        tuple(names), tuple(all_weights.tolist()), tuple(all_offsets.tolist()), float(intercept), float(slope)
    )
    share = successes.sum() / trials.sum()
    null = float(xlogy(successes, share).sum() + xlogy(trials - successes, 1 - share).sum())
    own = made.success(difficulties)
    full = float(xlogy(successes, own).sum() + xlogy(trials - successes, 1 - own).sum())
    r2 = 0.0 if null == 0 else max(0.0, 1 - full / null)
    return Boundary(made.names, made.weights, made.offsets, made.intercept, made.slope, r2, len(difficulties))


def zone(success: float) -> str:
    """The zone of a pair whose rollouts succeed this often: `feasible`, `partial` or `infeasible`.

    >>> zone(0.95), zone(0.5), zone(0.1)
    ('feasible', 'partial', 'infeasible')
    """
    return "feasible" if success >= FEASIBLE else "infeasible" if success <= INFEASIBLE else "partial"
