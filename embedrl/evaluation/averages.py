"""The averages that papers print, from the figures of single data sets."""

from __future__ import annotations

from collections.abc import Mapping


def averages(benchmark: str, scores: Mapping[str, float]) -> dict[str, float | None]:
    """Every average of a benchmark's table, in its order; None where a data set of it is missing.

    Args:
        benchmark: `mmeb_v2` or `uvrb`.
        scores: The main metric of each data set, by its public name.

    Raises:
        ConfigError: If a score belongs to no data set of the benchmark.
    """
    raise NotImplementedError


def missing(benchmark: str, scores: Mapping[str, float]) -> list[str]:
    """The data sets of a benchmark that have no score, in the table's order."""
    raise NotImplementedError
