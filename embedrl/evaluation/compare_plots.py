"""The two pictures of a comparison."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from embedrl.evaluation.results import SetResult

_COLORS = ("tab:gray", "tab:blue")
_CUES = {"image": "boxes an image side", "video": "key frames a video side", "text": "keywords a text side"}


def plot_delta_s(path: Path, gaps: Sequence[NDArray[np.float64]], labels: Sequence[str]) -> None:
    """Histograms of Δs: how far the best candidate stands out from the second. Source: Embed-RL Fig. 4.

    Args:
        path: The PNG to write.
        gaps: Δs of the queries of each evaluation.
        labels: A name of each.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(0, max(float(values.max(initial=1e-3)) for values in gaps), 41)
    for values, label, color in zip(gaps, labels, _COLORS, strict=True):
        mean = float(values.mean()) if len(values) else 0.0
        axes.hist(values, edges.tolist(), color=color, alpha=0.5, label=f"{label}: mean {mean:.3f}")
        axes.axvline(mean, color=color, linestyle="--")
    axes.set_xlabel("Δs: similarity with the best candidate minus that with the second")
    axes.set_ylabel("queries")
    axes.legend()
    figure.savefig(path, dpi=120)


def plot_evidence(path: Path, sets: Sequence[Sequence[SetResult]], labels: Sequence[str]) -> None:
    """Number of cues in the T-CoTs of a data set against its main metric, by modality. Source: Embed-RL Fig. 5.

    An arrow leads from the first evaluation's point to the second's.

    Args:
        path: The PNG to write.
        sets: The data sets of each evaluation, in one order.
        labels: A name of each evaluation.
    """
    present = [m for m in _CUES if any(m in result.evidence for results in sets for result in results)]
    figure = Figure(figsize=(5 * max(len(present), 1), 4.2), layout="constrained")
    panels = figure.subplots(1, max(len(present), 1), squeeze=False)[0]
    for modality, axes in zip(present, panels, strict=False):
        pairs = [pair for pair in zip(*sets, strict=True) if all(modality in result.evidence for result in pair)]
        named: dict[tuple[float, float], list[str]] = defaultdict(list)
        for pair in pairs:
            (x0, y0), (x1, y1) = ((result.evidence[modality], 100 * result.score) for result in pair)
            axes.annotate("", (x1, y1), (x0, y0), arrowprops={"arrowstyle": "->", "color": "0.6"})
            named[x1, y1].append(pair[1].name)
        for i, (place, names) in enumerate(sorted(named.items(), key=lambda item: (item[0][1], item[0][0]))):
            below = i % 2  # labels alternate above and below; coinciding points share one label
            axes.annotate(
                "\n".join(names), place, textcoords="offset points", xytext=(5, -4 if below else 3), fontsize=7,
                va="top" if below else "bottom",
            )  # fmt: skip
        for results, label, color in zip(zip(*pairs, strict=True), labels, _COLORS, strict=False):
            xs, ys = [r.evidence[modality] for r in results], [100 * r.score for r in results]
            axes.scatter(xs, ys, color=color, label=label, zorder=3)
        axes.set_xlabel(f"mean number of {_CUES[modality]}")
        axes.set_ylabel("main metric, percent")
        axes.margins(0.25)  # room for the names, but no axis below 0, where there are no points
        axes.set_xlim(left=max(axes.get_xlim()[0], -0.1))
        axes.set_ylim(max(axes.get_ylim()[0], -5), min(axes.get_ylim()[1], 115))
        if pairs:
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
