"""The tables and the plot of `egrl_world.py`."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from egrl_world_measure import EVIDENCE, TOKENS
from markdown_table import markdown

from embedrl.evaluation.seed_bootstrap import Estimate, Seeds, difference

INPUT = "input"
"""The kind of the rows that show an Embedder less than whole T-CoTs: their evidence is not compared."""
COLORS = {INPUT: "tab:gray", "SFT": "tab:blue", "EG-RL": "tab:orange", "search": "tab:green", "teacher": "tab:purple"}
"""Kind of a row → its color in the plot."""

Found = Mapping[str, Mapping[Seeds, dict[str, Any]]]
"""Row → seeds of a run → what was measured."""
Rows = Mapping[str, Sequence[Mapping[str, float]]]
"""Row → the figures of its runs, as `flat` has them."""


def report(
    folder: Path,
    split: str,
    kinds: Mapping[str, str],
    beside: Sequence[str],
    orderings: Sequence[tuple[str, str]],
    resamples: int = 10_000,
) -> None:
    """Write table, figures and plot of every row there is.

    Args:
        folder: Where the benchmark's runs are.
        split: The split.
        kinds: The rows in order, each with its kind, a key of `COLORS`.
        beside: The rows that every other is compared with, query by query; evidence with the first alone.
        orderings: Pairs of rows of which the first should be above the second.
        resamples: Resamples of the bootstrap.
    """
    found = read(folder / split, kinds)
    rows = {name: [flat(scores) for scores in runs.values()] for name, runs in found.items()}
    gains = {
        name: {other: gain for other in beside if other != name and (gain := gain_over(found, name, other, resamples))}
        for name in found
    }
    shown = [name for name in rows if kinds[name] != INPUT]
    parts = [hit_table(rows), word_table(rows, shown), gain_table(found, gains, beside, shown)]
    ordered = {pair: gain for pair in orderings if (gain := gain_over(found, *pair, resamples))}
    parts.append(ordering_table(ordered))
    text = "\n\n".join(map(markdown, parts))
    (folder / "table.md").write_text(text + "\n")
    plain = {name: {other: vars(one) for other, one in row.items()} for name, row in gains.items()}
    (folder / "scores.json").write_text(json.dumps({"rows": rows, "gains": plain}, indent=1))
    print(text)
    plot(folder / "plot.png", rows, kinds)


def read(folder: Path, order: Mapping[str, str]) -> Found:
    """Every row that was measured, in order."""
    found: dict[str, dict[Seeds, dict[str, Any]]] = defaultdict(dict)
    for file in sorted(folder.glob("*.json")):
        base, _, seed = file.stem.rpartition(" ")[2].rpartition("-")
        for name, scores in json.loads(file.read_text()).items():
            found[name][f"base {base}", f"seed {seed}"] = scores
    return {name: found[name] for name in order if name in found}


def gain_over(found: Found, first: str, second: str, resamples: int) -> Estimate | None:
    """What a row has more than another one, by the runs whose base both have; None if there are none."""
    bases = {base for base, _ in found.get(first, ())} & {base for base, _ in found.get(second, ())}
    more, less = ({key: run for key, run in found.get(row, {}).items() if key[0] in bases} for row in (first, second))
    return difference(hits(less), hits(more), resamples=resamples) if bases else None


def hits(runs: Mapping[Seeds, dict[str, Any]]) -> dict[Seeds, dict[str, np.ndarray[Any, Any]]]:
    """Hits of every query, as the bootstrap takes them."""
    return {key: {name: np.array(values) for name, values in one["hits"].items()} for key, one in runs.items()}


def flat(scores: dict[str, Any]) -> dict[str, float]:
    """`hit@1`: the mean over families; each family's; what `EVIDENCE` names; tokens."""
    families = {name: statistics.mean(hits) for name, hits in scores["hits"].items()}
    return {
        "hit@1": statistics.mean(families.values()),
        **families,
        **{name: scores[name] for name in (*EVIDENCE, TOKENS) if name in scores},
    }


# ---------------------------------------------------------------- tables


def hit_table(rows: Rows) -> list[list[str]]:
    """hit@1: mean ± half of the 95 % interval over runs."""
    columns = [name for name in next(iter(rows.values()))[0] if name not in (*EVIDENCE, TOKENS)]
    return [
        ["", *columns, "runs"],
        *([name, *(cell(runs, c) for c in columns), str(len(runs))] for name, runs in rows.items()),
    ]


def word_table(rows: Rows, shown: Sequence[str]) -> list[list[str]]:
    """How T-CoTs compare with the perfect teacher's, and what they cost."""
    return [
        ["", *EVIDENCE, TOKENS],
        *([name, *(cell(rows[name], c) for c in EVIDENCE), cell(rows[name], TOKENS, ".1f")] for name in shown),
    ]


def gain_table(
    found: Found, gains: Mapping[str, Mapping[str, Estimate]], beside: Sequence[str], shown: Sequence[str]
) -> list[list[str]]:
    """What a row has more than others on the same base: hit@1 with the bootstrap's interval, evidence."""
    heads = [f"hit@1 less that of {other} (95 %, seeds and queries)" for other in beside]
    table = [["", *heads, *(f"{name}, gained" for name in EVIDENCE)]]
    for name, runs in found.items():
        cells = [with_interval(one) if (one := gains[name].get(other)) else "" for other in beside]
        first = found.get(beside[0], {}) if name in shown and name != beside[0] else {}
        for what in EVIDENCE:
            more = []
            for (base, _), run in runs.items():
                if start := [one[what] for key, one in first.items() if key[0] == base and what in one]:
                    more.append({what: run[what] - statistics.mean(start)})
            cells.append(cell(more, what, "+.3f"))
        table.append([name, *cells])
    return table


def ordering_table(found: Mapping[tuple[str, str], Estimate]) -> list[list[str]]:
    """Whether a row is above another: it is, it is not, or the interval has 0 inside."""
    table = [["above", "below", "hit@1 more (95 %, seeds and queries)", "it holds"]]
    for (above, below), one in found.items():
        verdict = "yes" if one.low > 0 else "no" if one.high < 0 else "undecided"
        table.append([above, below, with_interval(one), verdict])
    return table


def with_interval(one: Estimate) -> str:
    """A difference with its 95 % interval."""
    return f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})"


def interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean over runs (Student's t); NaN of one value."""
    if len(values) < 2:
        return math.nan
    t = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}.get(len(values), 2.447)
    return t * statistics.stdev(values) / math.sqrt(len(values))


def cell(runs: Sequence[Mapping[str, float]], column: str, form: str = ".3f") -> str:
    """Mean ± half interval of a column; empty where it was not measured."""
    values = [run[column] for run in runs if column in run]
    if not values:
        return ""
    half = interval(values)
    return f"{statistics.mean(values):{form}}" + ("" if math.isnan(half) else f" ± {half:{form.removeprefix('+')}}")


# ---------------------------------------------------------------- plot


def plot(file: Path, rows: Rows, kinds: Mapping[str, str]) -> None:
    """Bars of hit@1 and box IoU."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, sharey=True, figsize=(13, 0.34 * len(rows) + 1.2))
    names = list(rows)[::-1]
    for axis, (column, title) in zip(axes, (("hit@1", "hit@1, mean of the families"), ("iou", "box IoU")), strict=True):
        kept = [n for n in names if column == "hit@1" or kinds[n] != INPUT]
        means = [statistics.mean(r[column] for r in rows[n]) for n in kept]
        errors = [interval([r[column] for r in rows[n]]) for n in kept]  # NaN, of one run: none is drawn
        axis.barh(kept, means, xerr=errors, color=[COLORS[kinds[n]] for n in kept], capsize=3)
        for name, mean, error in zip(kept, means, errors, strict=True):
            axis.text(mean + np.nan_to_num(error) + 0.01, name, f"{mean:.3f}", va="center", fontsize=8)
        axis.set(title=title, xlim=(0, 1.15), ylim=(-0.6, len(names) - 0.4))
    figure.tight_layout()
    figure.savefig(file, dpi=120)
