"""The figures of a mix as a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from embedrl.construction.figures import Figures
from embedrl.types import Role

_ROW = 0.28  # inches a bar
_MOST = 9  # a count of cues from here on is one bar


def plot(figures: Sequence[Figures], out: Path) -> None:
    """Draw pairs by modality, lengths of T-CoTs, evidence counts, and failures by cause.

    Args:
        figures: The figures of each data set.
        out: The file; its suffix decides the format.
    """
    causes = sum((one.failures for one in figures), Counter[str]())
    rows = max(len(figures), min(len(causes), 20), 10)
    figure = Figure(figsize=(13, 1.5 + 2.2 * _ROW * rows), layout="constrained")
    axes = figure.subplots(2, 2)
    _pairs(axes[0, 0], figures)
    _lengths(axes[0, 1], figures)
    _evidence(axes[1, 0], figures)
    _failures(axes[1, 1], causes)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def _pairs(axes: Any, figures: Sequence[Figures]) -> None:
    names = [one.name for one in figures]
    left = [0.0] * len(figures)
    for kind in dict.fromkeys(kind for one in figures for kind in one.modalities):
        width = [one.pairs * one.modalities[kind] / max(1, one.looked_at) for one in figures]
        axes.barh(names, width, left=left, label=kind)
        left = [a + b for a, b in zip(left, width, strict=True)]
    axes.invert_yaxis()
    axes.set(title="pairs, by modality of query → target", xlabel="pairs")
    axes.set_xlim(0, 1.05 * max([*left, 1.0]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, frameon=False)


def _lengths(axes: Any, figures: Sequence[Figures]) -> None:
    words = {role: [n for one in figures for n in one.tcot_words[role]] for role in Role}
    drawn = {role: numbers for role, numbers in words.items() if numbers}
    if drawn:
        first, last = (pick(pick(numbers) for numbers in drawn.values()) for pick in (min, max))
        width = (last - first) // 40 + 1  # whole words: other bins would leave gaps
        axes.hist(list(drawn.values()), bins=range(first, last + width + 1, width), label=[str(role) for role in drawn])
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize="small")
    else:
        _nothing(axes, "no T-CoTs")
    axes.set(title="length of T-CoTs", xlabel="words", ylabel="T-CoTs")


def _evidence(axes: Any, figures: Sequence[Figures]) -> None:
    kinds = {kind: [n for one in figures for n in one.cues[kind]] for kind in (figures[0].cues if figures else ())}
    kinds = {kind: numbers for kind, numbers in kinds.items() if numbers}
    width = 0.8 / max(1, len(kinds))
    for i, (kind, numbers) in enumerate(kinds.items()):
        counts = Counter(min(n, _MOST) for n in numbers)
        share = [100 * counts[n] / len(numbers) for n in range(_MOST + 1)]
        axes.bar([n + (i + 0.5) * width - 0.4 for n in range(_MOST + 1)], share, width, label=kind)
    if kinds:
        axes.legend(fontsize="small")
        axes.set_xticks(range(_MOST + 1), [*map(str, range(_MOST)), f"{_MOST}+"])
    else:
        _nothing(axes, "no T-CoTs")
    axes.set(title="evidence in a T-CoT", xlabel="cues", ylabel="% of the T-CoTs of that kind")


def _failures(axes: Any, causes: Counter[str]) -> None:
    most = causes.most_common(20)
    if most:
        bars = axes.barh([cause for cause, _ in most], [number for _, number in most], color="tab:red")
        axes.bar_label(bars, fmt="{:,.0f}", padding=2, fontsize="small")
        axes.margins(x=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.invert_yaxis()
    else:
        _nothing(axes, "none known")
    axes.set(title="left out, by cause", xlabel="pairs")


def _nothing(axes: Any, words: str) -> None:
    axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes)
