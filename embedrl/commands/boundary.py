"""`embedrl boundary`: up to which difficulty a Reasoner's rollouts succeed, as a law, a table and a plot."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.table import Table

from embedrl.errors import DataError
from embedrl.rl.boundary import FEASIBLE, INFEASIBLE, Boundary, Difficulty, Values, fit_boundary, zone
from embedrl.rl.rollout_success import Score, Scores
from embedrl.utils.atomic_files import replacing
from embedrl.utils.console import data_set_column, make_console

BINS = 12


def boundary(success: Path, difficulty: Difficulty, out: Path, sets: list[str] | None = None) -> None:
    """Fit the combination law of reasoning boundaries on how often the rollouts of pairs succeed.

    Writes `boundary.json` (the law, and the difficulties K1 and K2 at which 90 % and 10 % of rollouts succeed) and
    `boundary.png`, and prints how many pairs of each data set lie in which zone.

    Args:
        success: What `RolloutSuccess` wrote: JSON lines with the share of each pair's rollouts that succeed.
        difficulty: What is known of how difficult pairs are, such as `embedrl.data.world.WorldDifficulty`.
        out: The folder to write to.
        sets: Names of the data sets to fit on; None takes all.

    Raises:
        DataError: If the file is missing or broken, holds none of the data sets, or there is nothing to fit.
    """
    scores = _scores(success, sets)
    known = [difficulty(score.id) for score in scores]
    names = list(known[0])
    if odd := next((score for score, own in zip(scores, known, strict=True) if list(own) != names), None):
        raise DataError(f"{success}: {odd.key} has other dimensions of difficulty than {scores[0].key}: {names}")
    difficulties = np.array([[own[name] for name in names] for own in known])
    trials = np.array([float(score.rollouts) for score in scores])
    shares = np.array([score.success for score in scores])
    law = fit_boundary(names, difficulties, shares * trials, trials)
    first, last = law.at(FEASIBLE), law.at(INFEASIBLE)
    zones = _zones(scores)
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "boundary.json") as part:
        part.write_text(json.dumps({**asdict(law), "k1": first, "k2": last, "zones": zones}, indent=1))
    _plot(out / "boundary.png", law, law.combined(difficulties), shares)
    console = make_console()
    console.print(_table(zones))
    terms = " + ".join(
        f"{weight:.3f} / ({name} − {offset:.2f})"
        for name, weight, offset in zip(law.names, law.weights, law.offsets, strict=True) if weight
    )  # fmt: skip
    lines = [f"D = 1 / ({terms.replace('− -', '+ ')})", f"R² {law.r2:.3f} on {law.pairs:,} pairs"]
    if first is None or last is None:
        lines.append("success does not fall with this difficulty: it has no boundary")
    else:
        lines.append(f"K1 {first:.3f}: {FEASIBLE:.0%} of rollouts succeed; K2 {last:.3f}: {INFEASIBLE:.0%}")
    console.print("\n".join([*lines, f"Wrote {out}"]), highlight=False, markup=False, soft_wrap=True)


def _scores(path: Path, sets: list[str] | None) -> list[Score]:
    if not path.is_file():
        raise DataError(f"--success {path}: no such file; `embedrl validate` with RolloutSuccess writes it")
    with Scores(path, read_only=True) as stored:
        everything = list(stored.records())
    scores = [score for score in everything if sets is None or score.dataset in sets]
    if not scores:
        there = ", ".join(sorted({score.dataset for score in everything})) or "none"
        raise DataError(f"--success {path}: no pair of {', '.join(sets or ['any data set'])}; it holds {there}")
    return scores


def _zones(scores: Sequence[Score]) -> dict[str, dict[str, int]]:
    """How many pairs of each data set lie in which zone, by their own rollouts."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for score in scores:
        counts[score.dataset][zone(score.success)] += 1
    return {name: {kind: own[kind] for kind in ("feasible", "partial", "infeasible")} for name, own in counts.items()}


def _table(zones: dict[str, dict[str, int]]) -> Table:
    table = Table(data_set_column(), "feasible (≥ 90 %)", "partial", "infeasible (≤ 10 %)", title="pairs by zone")
    for name, own in zones.items():
        table.add_row(name, *(f"{count:,}" for count in own.values()))
    return table


def _plot(file: Path, law: Boundary, combined: Values, shares: Values) -> None:
    """Success by combined difficulty: what was measured in bins, and the law."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4.2))
    edges = np.unique(np.quantile(combined, np.linspace(0, 1, BINS + 1)))
    bins = np.digitize(combined, edges[1:-1])  # pairs that are equally difficult stay together
    for number in np.unique(bins):
        part = bins == number
        error = shares[part].std() / np.sqrt(part.sum())
        axis.errorbar(combined[part].mean(), shares[part].mean(), yerr=error, fmt="o", color="tab:blue", capsize=3)
    grid = np.linspace(combined.min(), combined.max(), 200)
    axis.plot(grid, 1 / (1 + np.exp(law.slope * np.log(grid) - law.intercept)), color="tab:orange")
    for success, name in ((FEASIBLE, "K1"), (INFEASIBLE, "K2")):
        place = law.at(success)
        axis.axhline(success, color="gray", linewidth=0.6)
        if place is not None and combined.min() <= place <= combined.max():
            axis.axvline(place, color="gray", linestyle="--")
            axis.text(place, 1.02, name, ha="center")
    axis.set(xlabel="combined difficulty D", ylabel="rollouts that succeed", ylim=(0, 1.08))
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
