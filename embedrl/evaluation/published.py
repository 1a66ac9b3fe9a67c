"""Figures that others have published, each with its source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from embedrl.evaluation.table import check_benchmark, read_data


@dataclass(frozen=True)
class Published:
    """What has been published of one model on one benchmark, in percent.

    Attributes:
        model: The model's name.
        source: Where the figures were read: a paper's table or a score file.
        sets: Figures of single data sets, by public name; not every data set need be there.
        means: Averages as they were printed, by the names that `embedrl.evaluation.averages.averages` uses.
        version: Version of the data that the figures belong to.
        errata: Averages that do not follow from `sets`, each with what is known about it.
    """

    model: str
    source: str
    sets: Mapping[str, float]
    means: Mapping[str, float]
    version: str
    errata: Mapping[str, str] = field(default_factory=dict)


def published(benchmark: str) -> dict[str, Published]:
    """Published figures of a benchmark, by model.

    Args:
        benchmark: `mmeb_v2` or `uvrb`.

    Raises:
        ConfigError: If there is no such benchmark.
    """
    check_benchmark(benchmark)
    by_model = json.loads(read_data(f"published_{benchmark}.json"))
    return {model: Published(model=model, **figures) for model, figures in by_model.items()}
