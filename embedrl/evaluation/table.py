"""The data sets of the public benchmarks, one row each, read from a table file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml

from embedrl.errors import ConfigError

BENCHMARKS = ("mmeb_v2", "uvrb")


@dataclass(frozen=True)
class SetRow:
    """One data set of a benchmark.

    Attributes:
        benchmark: `mmeb_v2` or `uvrb`.
        name: The public name, as it appears in score files.
        group: The group it belongs to, e.g. `image/cls`.
        reader: The kind of layout: a module of `embedrl.evaluation.readers`.
        ranking: `local` ranks each query's own candidates, `global` the whole pool.
        main_metric: The figure that is reported, by the names of `embedrl.metrics.retrieval`.
        num_queries: How many queries the public data hold.
        version: Version of the data: the public repository they come from.
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
    num_queries: int
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
    check_benchmark(benchmark)
    return list(_rows(benchmark))


def check_benchmark(benchmark: str) -> None:
    """Check that there is a benchmark of this name.

    Raises:
        ConfigError: If there is no such benchmark.
    """
    if benchmark not in BENCHMARKS:
        raise ConfigError(f"no benchmark {benchmark!r}: give one of {', '.join(BENCHMARKS)}")


def read_data(name: str) -> str:
    """The text of a file of `embedrl/evaluation/data`."""
    return (resources.files("embedrl.evaluation") / "data" / name).read_text(encoding="utf-8")


def rows_of(text: str, benchmark: str) -> list[SetRow]:
    """The rows of a table: a list of blocks, each with `sets`, whose own keys override the block's.

    Args:
        text: YAML; `{name}` in a path or a version stands for the set's name.
        benchmark: The benchmark whose table it is.

    Raises:
        ConfigError: If a key is misspelt or missing, or a name occurs twice.
    """
    known = {item.name for item in fields(SetRow)}
    rows: list[SetRow] = []
    for block in yaml.safe_load(text):
        shared = {key: value for key, value in block.items() if key != "sets"}
        for item in block["sets"]:
            own: dict[str, Any] = {"name": item} if isinstance(item, str) else item
            values: dict[str, Any] = {**shared, **own, "benchmark": benchmark}
            for key in ("paths", "options"):
                values[key] = {**shared.get(key, {}), **own.get(key, {})}
            if unknown := set(values) - known:
                raise ConfigError(f"{benchmark}/{own['name']}: unknown key {unknown.pop()!r}: one of {sorted(known)}")
            values["paths"] = {k: _filled(path, own["name"]) for k, path in values["paths"].items()}
            try:
                values["version"] = _filled(values["version"], own["name"])
                rows.append(SetRow(**values))
            except (KeyError, TypeError) as error:
                raise ConfigError(f"{benchmark}/{own['name']}: a key is missing from the table ({error})") from error
    names = [row.name for row in rows]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"{benchmark}: {', '.join(sorted(twice))} stands in the table twice")
    return rows


def _filled(text: str, name: str) -> str:
    return re.sub(r"\{name\}", name, text)


@cache
def _rows(benchmark: str) -> tuple[SetRow, ...]:
    return tuple(rows_of(read_data(f"{benchmark}.yaml"), benchmark))
