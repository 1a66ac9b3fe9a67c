"""Quality against the share of queries that think, on the built-in world: who gets a T-CoT is up to the raw query's Δs.

    python benchmarks/thinking_on_demand.py                   # after the quickstarts: their Embedder and Reasoner
    python benchmarks/thinking_on_demand.py --smallest true --out /tmp/small   # checks the code alone

Candidates always have T-CoTs. For each family, each query is embedded raw and with the T-CoT that the Reasoner writes;
queries think in the order of the gate (least Δs first), in a random order (its exact expectation), and in that of an
oracle that knows which queries a T-CoT helps. The gate is drawn twice: with one threshold for all families, and with
the same share of each. The threshold that was best on `val` is applied to `test`. Vectors and
T-CoTs are kept in `--out`: a benchmark that was stopped goes on.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor

from embedrl.data.world import WorldTasks
from embedrl.evaluation.results import rank_task
from embedrl.evaluation.tcots import TCoTOptions, TCoTs
from embedrl.evaluation.vectors import EncodeOptions, VectorCache
from embedrl.inference.frozen_embedder import LENIENT
from embedrl.metrics.confidence import delta_s
from embedrl.training.trained_model import load_embedder, load_reasoner
from embedrl.types import RetrievalTask

CPU = torch.device("cpu")
SHARES = [i / 20 for i in range(21)]
TOPS = (2, 5)
STYLES = {
    "gate2": ("threshold, best − second", "tab:blue", "-."),
    "gate5": ("threshold, best − mean of next four", "tab:orange", "-."),
    "each_gate2": ("share of each family, best − second", "tab:blue", "-"),
    "each_gate5": ("share of each family, best − mean of next four", "tab:orange", "-"),
    "random": ("random", "black", "--"),
    "oracle": ("oracle (upper bound)", "tab:gray", ":"),
}
"""Curve → how it is named and drawn."""
Figures = dict[str, Tensor]
"""Of each query: whether it hits `raw` and `thinking`, and its Δs by `top`."""


def measure(task: RetrievalTask, writer: TCoTs, vectors: VectorCache) -> Figures:
    """What raw and thinking queries of a task find."""
    full, _ = writer.fill(task)
    raw = replace(full, queries=[side.with_tcot("") for side in full.queries])
    digests = vectors.hashes(task.candidates)
    candidates = vectors.embed(full.candidates, digests, f"{task.name}/candidate")
    figures: Figures = {}
    for name, one in (("raw", raw), ("thinking", full)):
        queries = vectors.embed(one.queries, vectors.hashes(one.queries), f"{task.name}/query")
        ranking = rank_task(one, queries, candidates, max(TOPS))[0]
        figures[name] = (ranking.relevance[:, 0] > 0).double()
        if name == "raw":
            figures |= {f"gap{top}": delta_s(ranking.scores, top) for top in TOPS}
    return figures


def curve(figures: Figures, order: Tensor) -> list[float]:
    """hit@1 at each of `SHARES`, where queries think in this order."""
    raw, thinking = figures["raw"][order], figures["thinking"][order]
    gained = torch.cat([torch.zeros(1, dtype=torch.float64), (thinking - raw).cumsum(0)])
    counts = [math.floor(share * len(order) + 0.5) for share in SHARES]
    return [float((raw.sum() + gained[count]) / len(order)) for count in counts]


def curves(figures: Figures) -> dict[str, list[float]]:
    """The curve of each order."""
    low, high = (float(figures[name].mean()) for name in ("raw", "thinking"))
    return {
        **{f"gate{top}": curve(figures, figures[f"gap{top}"].argsort(stable=True)) for top in TOPS},
        "random": [low + share * (high - low) for share in SHARES],
        "oracle": curve(figures, (figures["raw"] - figures["thinking"]).argsort(stable=True)),
    }


def each_alike(families: dict[str, Figures]) -> dict[str, list[float]]:
    """The gates' curves where the same share of each family thinks, means over families."""
    ones = [curves(one) for one in families.values()]
    return {
        f"each_{name}": [sum(values) / len(ones) for values in zip(*(one[name] for one in ones), strict=True)]
        for name in ones[0]
        if name.startswith("gate")
    }


def at_threshold(figures: Figures, below: float, top: int) -> tuple[float, float]:
    """Share of queries that think, and hit@1."""
    thinks = figures[f"gap{top}"] < below
    return float(thinks.double().mean()), float(torch.where(thinks, figures["thinking"], figures["raw"]).mean())


def best_threshold(figures: Figures, top: int) -> float:
    """The Δs under which thinking is best for hit@1; of equal ones the least, which thinks least."""
    steps = [0.0, *sorted({float(gap) + 1e-6 for gap in figures[f"gap{top}"] if math.isfinite(gap)})]
    return max(steps, key=lambda below: (at_threshold(figures, below, top)[1], -below))


def interval(hits: Tensor) -> float:
    """Half of the 95 % interval of a mean."""
    return float(1.96 * hits.std(unbiased=False) / math.sqrt(len(hits)))


def run(embedder: str, reasoner: str, out: Path, size: int, families: list[str] | None, tokens: int) -> dict[str, Any]:
    """Measure both splits."""
    started, threads = time.monotonic(), torch.get_num_threads()
    writer = TCoTs(TCoTOptions(style="brief", max_new_tokens=tokens), load_reasoner(reasoner), CPU, out / "tcots.jsonl")
    vectors = VectorCache(out / "vectors", load_embedder(embedder), LENIENT, CPU, EncodeOptions())
    splits: dict[str, dict[str, Figures]] = {}
    for split in ("val", "test"):
        splits[split] = {}
        for task in WorldTasks(split, size, families).tasks():
            splits[split][task.name] = measure(task, writer, vectors)
            print(f"{split} {task.name}: {time.monotonic() - started:.0f} s", flush=True)
    writer.close()
    joined = {
        split: {name: torch.cat([one[name] for one in tasks.values()]) for name in next(iter(tasks.values()))}
        for split, tasks in splits.items()
    }
    figures: dict[str, Any] = {
        "shares": SHARES,
        "queries_per_family": size,
        "families": {
            name: {"raw": float(one["raw"].mean()), "thinking": float(one["thinking"].mean()),
                   "raw_interval": interval(one["raw"]), "thinking_interval": interval(one["thinking"]), **curves(one)}
            for name, one in splits["test"].items()
        },
        "test": {**curves(joined["test"]), **each_alike(splits["test"]), "queries": len(joined["test"]["raw"]),
                 "interval": interval(joined["test"]["thinking"])},
        "val": curves(joined["val"]) | each_alike(splits["val"]),
        "thresholds": {},
        "threads": threads,
    }  # fmt: skip
    for top in TOPS:
        below = best_threshold(joined["val"], top)
        share, hit = at_threshold(joined["test"], below, top)
        figures["thresholds"][top] = {"below": below, "share": share, "hit@1": hit}
    return figures


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    test, shares = figures["test"], figures["shares"]
    picked = [shares.index(share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    names = {name: label for name, (label, _, _) in STYLES.items()}
    lines = ["| who thinks | " + " | ".join(f"{shares[i]:.0%}" for i in picked) + " |", "|---" * 6 + "|"]
    lines += [f"| {names[key]} | " + " | ".join(f"{100 * test[key][i]:.1f}" for i in picked) + " |" for key in names]
    lines += ["", "| family | raw | all think |", "|---|---|---|"]
    for name, one in figures["families"].items():
        cells = (f"{100 * one[key]:.1f} ± {100 * one[f'{key}_interval']:.1f}" for key in ("raw", "thinking"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for top, one in figures["thresholds"].items():
        lines += ["", f"Threshold of `top: {top}` chosen on val: Δs < {one['below']:.4f}; on test {one['share']:.0%} "
                  f"of the queries think, hit@1 {100 * one['hit@1']:.1f}."]  # fmt: skip
    return "\n".join(lines) + "\n"


def plot(figures: dict[str, Any], path: Path) -> None:
    """Draw hit@1 against the share of queries that think."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    test = figures["test"]
    figure, axes = pyplot.subplots(figsize=(7.2, 4.8), layout="constrained")
    for name, (label, colour, line) in STYLES.items():
        axes.plot([100 * x for x in figures["shares"]], [100 * y for y in test[name]], line, color=colour, label=label)
    axes.set(xlabel="queries that think (%)", ylabel="hit@1 (%)", title=f"World, test, {test['queries']} queries")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(
    embedder: str = "runs/quickstart_embedder/model",
    reasoner: str = "runs/quickstart_reasoner/model",
    out: Path = Path("runs/thinking_on_demand"),
    size: int = 128,
    families: list[str] | None = None,
    smallest: bool = False,
) -> None:
    """Measure the curve of thinking on demand.

    Args:
        embedder: The Embedder.
        reasoner: The Reasoner.
        out: Where vectors, T-CoTs, `figures.json`, `table.md` and `curve.png` go.
        size: Queries per family.
        families: Families of the world; None: all.
        smallest: As little as there can be, with models of random weights.
    """
    out.mkdir(parents=True, exist_ok=True)
    if smallest:
        figures = run("embedrl:tiny", "embedrl:tiny", out, 3, ["vqa"], 4)
    else:
        figures = run(embedder, reasoner, out, size, families, 512)
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (out / "table.md").write_text(table(figures), encoding="utf-8")
    plot(figures, out / "curve.png")
    print(table(figures))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
