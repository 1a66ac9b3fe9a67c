"""The tables and the plot of `one_or_two.py`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from markdown_table import markdown

from embedrl.evaluation.seed_bootstrap import Estimate, Runs, difference, estimate

RESAMPLES = 2000
Found = Mapping[str, Mapping[str, Any]]
"""Row → seed → its figures."""
GIVEN = "teacher's T-CoTs"
"""End of the name of a row that reads the T-CoTs of the perfect teacher, in place of what a model writes."""
BESIDE = "Embed-RL, SFT"
"""The row that every other is compared with, seed by seed and query by query."""


def read(folder: Path, split: str, order: Sequence[str]) -> Found:
    """Every row that was measured, with what its system's training and a query take, in order."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for system in order:
        timing = folder / f"timing/{system}.json"
        took = json.loads(timing.read_text()) if timing.exists() else {}
        for file in sorted((folder / split).glob(f"{system} [0-9]*.json")):
            content = json.loads(file.read_text())
            for name, row in content["rows"].items():
                found[name][file.stem.rpartition(" ")[2]] = row | {
                    "training": content["training"],
                    "ms": took.get(name),
                }
    return found


def interval(runs: Mapping[str, Any], family: str | None = None) -> Estimate:
    """hit@1 of a row, or of one family of it, with its 95 % interval over seeds and queries."""
    return estimate(hits(runs, family), resamples=RESAMPLES)


def hits(runs: Mapping[str, Any], family: str | None = None) -> Runs:
    """Hits of a row, or of one family of it, as the bootstrap takes them."""
    return {
        (f"seed {seed}",): {
            name: np.array(values) for name, values in row["hits"].items() if family is None or name == family
        }
        for seed, row in runs.items()
    }


def cell(one: Estimate, sign: str = "") -> str:
    """A figure with its interval, in per cent."""
    value, low, high = (f"{100 * figure:{sign}.1f}" for figure in (one.value, one.low, one.high))
    return f"{value} ({low} to {high})"


def tables(found: Found) -> str:
    """Both tables as Markdown."""
    head = [
        "",
        "seeds",
        "hit@1, % (95 %)",
        f"less {BESIDE}",
        "tokens a query",
        "latent steps",
        "queries that reason, %",
        "ms a query",
    ]
    rows = [[*head, "training, TFLOP", "optimizer steps", "training, CPU minutes"]]
    families = list(dict.fromkeys(name for runs in found.values() for row in runs.values() for name in row["hits"]))
    by_family = [["hit@1, % (95 %)", *families]]
    for name, runs in found.items():
        each = list(runs.values())

        def average(what: str, each: Sequence[Any] = each) -> float:
            return mean(float(row[what]) for row in each)

        def taken(what: str, each: Sequence[Any] = each) -> float:
            return mean(float(row["training"][what]) for row in each)

        beside = ""
        if BESIDE in found and name != BESIDE:
            beside = cell(difference(hits(found[BESIDE]), hits(runs), resamples=RESAMPLES), "+")
        rows.append(
            [
                name + (" *" if name.endswith(("oracle", GIVEN)) else ""), str(len(each)), cell(interval(runs)), beside,
                f"{average('tokens'):.1f}", f"{average('latent'):.0f}", f"{100 * average('thinking'):.0f}",
                "" if name.endswith(GIVEN) else f"{average('ms'):.1f}", f"{taken('flops') / 1e12:.3g}",
                f"{taken('steps'):.0f}", f"{taken('cpu_seconds') / 60:.1f}",
            ]
        )  # fmt: skip
        by_family.append([name, *(cell(interval(runs, family)) for family in families)])
    note = (
        "\\* an upper bound, which looks at the answer: the better one of disc and gen for each query (oracle), or the "
        "T-CoTs of the perfect teacher in place of a model's.\n"
    )
    return "\n".join([markdown(rows), "", note, markdown(by_family)]) + "\n"


def plot(path: Path, found: Found) -> None:
    """Draw hit@1 against the milliseconds that a query takes; rows whose T-CoTs are given have no such time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(figsize=(8.4, 5.2), layout="constrained")
    drawn = {name: runs for name, runs in found.items() if not name.endswith(GIVEN)}
    for number, (name, runs) in enumerate(drawn.items()):
        got, took = interval(runs), mean(row["ms"] for row in runs.values())
        errors = [[max(0.0, 100 * (got.value - got.low))], [max(0.0, 100 * (got.high - got.value))]]
        marker = "x" if name.endswith("oracle") else "o"
        label = f"{name} (upper bound)" if name.endswith("oracle") else name
        axes.errorbar(
            took, 100 * got.value, yerr=errors, fmt=marker, capsize=3, label=label, color=f"C{number % 10}",
            markerfacecolor=f"C{number % 10}" if number < 10 else "white",
        )  # fmt: skip
    axes.set(xscale="log", xlabel="milliseconds a query", ylabel="hit@1 (%)", title="One model or two: the world")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def report(folder: Path, split: str, order: Sequence[str]) -> None:
    """Write and print the tables, the figures and the plot of every row there is.

    Args:
        folder: The benchmark's folder.
        split: The split that was measured.
        order: Names of the systems.
    """
    found = read(folder, split, order)
    text = tables(found)
    (folder / "table.md").write_text(text, encoding="utf-8")
    (folder / "scores.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    plot(folder / "plot.png", found)
    print(text)
