"""Intervals that cover what varies: seeds at every level of a chain of trainings, and the queries.

A run of EG-RL hangs on the seeds of the Embedder, of SFT and of EG-RL itself. A resample draws seeds of the first
level with replacement, for each of them seeds of the next level, and so on; and queries of each data set, the same ones
for all runs. Source: Efron & Tibshirani 1993, §8.6; Davison & Hinkley 1997, §3.8 (bootstrap at several levels).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedrl.errors import ConfigError
from embedrl.evaluation.compare import load, scores_of

Values = NDArray[np.float64]
Seeds = tuple[str, ...]
"""Seeds of a run, the first level first, such as `("embedder 0", "sft 1", "rl 2")`."""
Runs = Mapping[Seeds, Mapping[str, Values]]
"""Runs of one recipe: seeds → data set → score of each query, in one order."""

Below = Mapping[Seeds, list[str]]

PART = 500  # resamples that are computed at once


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: Mean over data sets of the means over queries and runs; runs of one seed count like those of another.
        low: Lower end of the percentile interval.
        high: Upper end.
        error: Standard deviation over the resamples.
    """

    value: float
    low: float
    high: float
    error: float

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def read_runs(folders: Mapping[Seeds, Path]) -> Runs:
    """Runs from the results that `embedrl eval` left behind.

    Args:
        folders: Seeds of each run → the folder of its evaluation.

    Raises:
        ConfigError: If two were scored on different data.
        DataError: If a folder holds no finished evaluation.
    """
    runs: dict[Seeds, dict[str, Values]] = {}
    hashes: dict[str, str] = {}
    for seeds, folder in folders.items():
        runs[seeds] = {}
        for result in load(folder).sets:
            if hashes.setdefault(result.name, result.data_hash) != result.data_hash:
                raise ConfigError(f"{folder}: {result.name} is not the data that the others were scored on")
            runs[seeds][result.name] = scores_of(folder, result.name, "score")
    return runs


def estimate(runs: Runs, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Estimate:
    """The figure of a recipe.

    Args:
        runs: Its runs.
        confidence: Probability that the interval covers the figure.
        resamples: How many times seeds and queries are drawn.
        seed: Seed of the draws.

    Raises:
        ConfigError: If runs have other levels, data sets or numbers of queries than one another.
    """
    sizes = _check(runs)
    return _summary(_flat(runs), np.zeros((0, 0)), runs, {}, sizes, confidence, resamples, seed)


def difference(first: Runs, second: Runs, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Estimate:
    """How far a recipe is above another one: `second - first`, query by query.

    Both meet the same queries in a resample, and the same seeds as long as they have the same ones to draw from: rows
    that share an Embedder share its luck.

    Args:
        first: Runs of the one recipe.
        second: Those of the other, on the same queries.
        confidence: Probability that the interval covers the difference.
        resamples: How many times seeds and queries are drawn.
        seed: Seed of the draws.

    Raises:
        ConfigError: If runs have other data sets or numbers of queries than one another.
    """
    sizes = _check(first)
    if sizes != _check(second):
        raise ConfigError(f"the runs were scored on different queries: {sizes} and {_check(second)}")
    return _summary(_flat(second), _flat(first), second, first, sizes, confidence, resamples, seed)


def _summary(
    plus: Values,
    minus: Values,
    added: Runs,
    taken: Runs,
    sizes: dict[str, int],
    confidence: float,
    resamples: int,
    seed: int,
) -> Estimate:
    if not 0 < confidence < 1 or resamples < 1:
        raise ConfigError(f"confidence {confidence}, resamples {resamples}: give 0..1, and 1 or more")
    rng, below = np.random.default_rng(seed), (_below(added), _below(taken))
    total = sum(sizes.values())
    even = np.concatenate([np.full(n, 1 / (n * len(sizes))) for n in sizes.values()])
    value = float(_even(added) @ plus @ even)
    value -= float(_even(taken) @ minus @ even) if taken else 0.0
    drawn = []
    for start in range(0, resamples, PART):
        count = min(PART, resamples - start)
        weights = np.empty((count, total))
        at = 0
        for n in sizes.values():
            weights[:, at : at + n] = rng.multinomial(n, np.full(n, 1 / n), size=count) / (n * len(sizes))
            at += n
        pairs = [_draw_both(added, taken, below, rng) for _ in range(count)]
        scores = np.array([one for one, _ in pairs]) @ plus
        if taken:
            scores -= np.array([other for _, other in pairs]) @ minus
        drawn.append((scores * weights).sum(1))
    values = np.concatenate(drawn)
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, float(low), float(high), float(values.std()))


def _draw_both(
    added: Runs, taken: Runs, below: tuple[Below, Below], rng: np.random.Generator
) -> tuple[list[float], list[float]]:
    """Weights of the runs of both recipes in one resample, each summing to 1; `below` is `_below` of both."""
    shares = (dict.fromkeys(added, 0.0), dict.fromkeys(taken, 0.0))

    def descend(sides: Sequence[tuple[int, Seeds, float]]) -> None:
        children = [below[side][prefix] for side, prefix, _ in sides]
        if not children[0]:
            for side, prefix, share in sides:
                shares[side][prefix] += share
        elif len(sides) == 2 and children[0] != children[1]:  # nothing to share any more
            for one in sides:
                descend([one])
        else:
            count = len(children[0])
            for at in rng.integers(count, size=count).tolist():
                descend([(side, (*prefix, children[0][at]), share / count) for side, prefix, share in sides])

    descend([(side, (), 1.0) for side, runs in enumerate((added, taken)) if runs])
    return list(shares[0].values()), list(shares[1].values())


def _below(runs: Runs) -> Below:
    """The seeds below each beginning of a run's seeds; none below a whole run."""
    below: dict[Seeds, list[str]] = {}
    for key in sorted(runs):
        for depth in range(len(key) + 1):
            own = below.setdefault(key[:depth], [])
            if depth < len(key) and key[depth] not in own:
                own.append(key[depth])
    return below


def _even(runs: Runs) -> Values:
    """Weights of the runs if every seed counts once."""
    weights = []
    for key in runs:
        weight = 1.0
        for depth in range(len(key)):
            weight /= len({other[depth] for other in runs if other[:depth] == key[:depth]})
        weights.append(weight)
    return np.array(weights)


def _flat(runs: Runs) -> Values:
    """Scores `[runs, queries of all data sets]`, the data sets in the order of the first run."""
    names = list(next(iter(runs.values())))
    return np.array([np.concatenate([scores[name] for name in names]) for scores in runs.values()], dtype=np.float64)


def _check(runs: Runs) -> dict[str, int]:
    """The number of queries of each data set."""
    if not runs:
        raise ConfigError("no run to estimate from: give at least one")
    if len({len(key) for key in runs}) != 1:
        raise ConfigError(f"the runs have seeds of different levels: {sorted(runs)}")
    sizes = [{name: len(scores) for name, scores in one.items()} for one in runs.values()]
    if any(other != sizes[0] for other in sizes) or not sizes[0] or 0 in sizes[0].values():
        raise ConfigError(f"the runs were scored on different queries, or on none: {sizes[0]} and others")
    return sizes[0]
