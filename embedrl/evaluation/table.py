"""The data sets of the public benchmarks, one row each, read from a table file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

BENCHMARKS = ("mmeb_v2", "uvrb")


@dataclass(frozen=True)
class SetRow:
    """One data set of a benchmark.

    Attributes:
        benchmark: `mmeb_v2` or `uvrb`.
        name: The public name, as it appears in score files.
        group: Where it counts, e.g. `image/cls`.
        reader: The kind of layout: a module of `embedrl.evaluation.readers`.
        ranking: `local` ranks each query's own candidates, `global` the whole pool.
        main_metric: The figure that is reported, by the names of `embedrl.metrics`.
        num_queries: How many queries the public data hold; None where no source states it.
        version: Version of the data.
        instruction: The prompt of the queries; empty if rows carry their own.
        target_instruction: The prompt of the candidates; empty if there is none or rows carry their own.
        paths: Where its files are, relative to the root of the benchmark's local copy.
        options: What else the reader needs.
    """

    benchmark: str
    name: str
    group: str
    reader: str
    ranking: Literal["local", "global"]
    main_metric: str
    num_queries: int | None
    version: str
    instruction: str = ""
    target_instruction: str = ""
    paths: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


def load_table(benchmark: str) -> list[SetRow]:
    """The data sets of a benchmark, in the order of its tables.

    Args:
        benchmark: `mmeb_v2` or `uvrb`.

    Raises:
        ConfigError: If there is no such benchmark.
    """
    raise NotImplementedError
