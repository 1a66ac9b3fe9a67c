"""Figures that others have published, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """What has been published of one model on one benchmark, in percent.

    Attributes:
        model: The model's name.
        source: Where the figures were read: a paper's table or a score file.
        sets: Figures of single data sets, by public name; empty where none were found.
        means: Averages as they were printed, by the names that `embedrl.evaluation.averages.averages` uses.
        version: Version of the data that the figures belong to.
    """

    model: str
    source: str
    sets: Mapping[str, float]
    means: Mapping[str, float]
    version: str


def published(benchmark: str) -> dict[str, Published]:
    """Published figures of a benchmark, by model.

    Args:
        benchmark: `mmeb_v2` or `uvrb`.

    Raises:
        ConfigError: If there is no such benchmark.
    """
    raise NotImplementedError
