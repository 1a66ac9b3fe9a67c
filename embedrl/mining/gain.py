"""`embedrl gain`: a T-CoT stays in training only where a pair is more alike with it than without."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from rich.table import Table
from torch import Tensor

from embedrl.construction.rows import JOURNALS, PairWriter, check_place, write_mix
from embedrl.data.mix import MixRow, check_labels
from embedrl.data.on_bad import FILE, MAX_BAD, BadSample, OnBad, OnBadMode
from embedrl.data.render import RenderOptions
from embedrl.distributed.processes import Device, processes
from embedrl.errors import ConfigError
from embedrl.evaluation.vectors import EncodeOptions, VectorCache
from embedrl.inference.frozen_embedder import check_single
from embedrl.mining.pair_reading import read_pairs
from embedrl.mining.reporting import write_report
from embedrl.models.backbone import Backbone
from embedrl.types import Pair, Side
from embedrl.utils.console import data_set_column, make_console, tell
from embedrl.utils.file_names import check_file_names


@dataclass(frozen=True)
class GainOptions:
    """When a T-CoT has gained enough to stay.

    Attributes:
        least: A T-CoT stays if its gain, a difference of two cosines, is above this. -2 keeps all of them, 2 none.
        of: What is judged: the `pair`, whose two T-CoTs stay or go together, by its similarity with both less that with
            none; or each `side`, by the pair's similarity less that without this side's T-CoT.
    """

    least: float = 0.0
    of: Literal["pair", "side"] = "pair"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: If `least` is no number.
        """
        if math.isnan(self.least):
            raise ConfigError("--options.least is nan: give a difference of cosines, such as 0")


def gain(
    mix: list[MixRow],
    backbone: Backbone,
    out: Path,
    options: GainOptions = GainOptions(),
    render: RenderOptions = RenderOptions(on_missing_tcot="raw"),  # noqa: B008 (frozen)
    encode: EncodeOptions = EncodeOptions(),  # noqa: B008 (frozen)
    device: Device = "auto",
    seed: int = 0,
    on_bad: OnBadMode = "raise",
    max_bad: int = MAX_BAD,
) -> None:
    """Annotate pairs with what their T-CoTs gain under a frozen Embedder, and keep those T-CoTs that gain.

    Writes `mix.yaml` with its JSONL files: all pairs, without the T-CoTs that do not gain, and with `gain` (of the
    `pair`, the `query`, the `target`); and `report.json`. A target without its T-CoT has negatives without theirs, or
    a T-CoT would tell a negative. Train on it with `render.on_missing_tcot: raw`. Restarted after an interruption, it
    resumes: vectors that were finished are not computed again. In the spirit of MMEmb-R1 (arXiv 2604.06156).

    Args:
        mix: The data sets, of pairs with T-CoTs: the `mix.yaml` of `embedrl annotate` or `embedrl filter`.
        backbone: The frozen Embedder, which must read sides with T-CoTs and without.
        out: The folder to write to.
        options: When a T-CoT stays.
        render: What the Embedder reads of a side with a T-CoT.
        encode: Where vectors are stored, and how they are computed.
        device: Where to compute; auto takes a GPU if there is one.
        seed: Seed of weights that no checkpoint holds.
        on_bad: A pair that cannot be read or embedded: `raise`, or `skip`: left out, counted, and named in
            `skipped.jsonl`.
        max_bad: The most different bad sides and rows that `skip` leaves out.

    Raises:
        ConfigError: If a flag is wrong.
        DataError: If a pair cannot be read or embedded and `on_bad` is `raise`, or none is left.
        TooManyBadError: If there are more than `max_bad`.
        CheckpointError: If the model cannot be read.
        NonFiniteError: If a vector is NaN or infinite.
    """
    settings = {"backbone": backbone, "options": options, "render": render, "encode": encode, "seed": seed}
    check_single(backbone, "embedrl gain")
    if render.tcot == "none":
        raise ConfigError("--render.tcot none: no T-CoT would be read, and none could gain: leave it out")
    check_file_names(check_labels(mix), "--mix", JOURNALS)
    check_place(mix, out)
    bad = OnBad(on_bad, max_bad, "--")
    report: dict[str, dict[str, Any]] = {}
    rows = []
    started = time.monotonic()
    with processes(device) as (place, rank):
        if rank == 0:
            out.mkdir(parents=True, exist_ok=True)
            bad.keep(out / FILE)
        lightning.seed_everything(seed, verbose=False)
        raw = replace(render, on_missing_tcot="raw")
        vectors = VectorCache(encode.cache or out / "vectors", backbone, raw, place, encode, rank)
        for row in mix:
            pairs, _ = read_pairs(row, bad)
            judged = _gains(row.label, pairs, vectors, bad)
            if rank == 0:
                written, report[row.label] = _write(row, judged, options, out)
                rows.append(written)
    if rank != 0:
        return
    write_mix(out / "mix.yaml", rows)
    write_report(out, {"data_sets": report, "model": vectors.identity}, started, settings)
    _print(report)
    tell(f"wrote {out / 'mix.yaml'}: train on it with --data.render.on_missing_tcot raw")


Gains = dict[str, float]
"""Of the `pair`, the `query` and the `target`; a side without a T-CoT gains 0."""


def _gains(label: str, pairs: Sequence[Pair], vectors: VectorCache, bad: OnBad) -> list[tuple[Pair, Gains]]:
    """The good pairs with their gains, on all processes."""
    if not pairs:
        return []
    sides = {"query": [pair.query for pair in pairs], "target": [pair.target for pair in pairs]}
    unusable: dict[int, BadSample] = {}
    embedded: dict[str, dict[int, Tensor]] = {}
    for role, own in sides.items():
        for thinking in (True, False):
            shown = own if thinking else [side.with_tcot("") for side in own]
            where = f"{label}/{role}"
            wrong: dict[int, BadSample] | None = {} if bad.mode == "skip" else None
            hashes = vectors.hashes(shown, where, wrong)
            good = [i for i in range(len(shown)) if i not in (wrong or {})]
            late: dict[int, BadSample] | None = None if wrong is None else {}
            blocks = vectors.embed([shown[i] for i in good], [hashes[i] for i in good], where, late, good)
            unusable |= (wrong or {}) | {good[i]: one for i, one in (late or {}).items()}
            kept = [i for place, i in enumerate(good) if place not in (late or {})]
            embedded[f"{role} {thinking}"] = dict(zip(kept, torch.cat(list(blocks.read())).double(), strict=True))
    if unusable:
        bad.add(list(unusable.values()))
        bad.check()
    return [(pair, _gain(embedded, i)) for i, pair in enumerate(pairs) if i not in unusable]


def _gain(embedded: dict[str, dict[int, Tensor]], index: int) -> Gains:
    """What one pair gains."""

    def alike(query: bool, target: bool) -> float:
        return float(embedded[f"query {query}"][index] @ embedded[f"target {target}"][index])

    both = alike(True, True)
    return {"pair": both - alike(False, False), "query": both - alike(False, True), "target": both - alike(True, False)}


def _write(
    row: MixRow, judged: Sequence[tuple[Pair, Gains]], options: GainOptions, out: Path
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Write one data set; the mix row that reads it, and its report."""
    writer = PairWriter(out, row.label, row.source, row.weight)
    thought = kept = 0
    for pair, own in judged:
        stays = [options.least < own["pair" if options.of == "pair" else role] for role in ("query", "target")]
        before = [pair.query, pair.target]
        after = [side if stay else side.with_tcot("") for side, stay in zip(before, stays, strict=True)]
        negatives = pair.negatives if after[1].tcot else tuple(side.with_tcot("") for side in pair.negatives)
        rounded = {name: round(value, 6) for name, value in own.items()}
        writer.write(replace(pair, query=after[0], target=after[1], negatives=negatives), {"gain": rounded})
        thought += _tcots(before)
        kept += _tcots(after)
    if not thought:
        tell(f"{row.label}: no pair has a T-CoT, so none could gain: annotate it first (embedrl annotate)")
    elif not kept:
        tell(f"{row.label}: no T-CoT gains more than {options.least}: all of its pairs will be trained raw")
    report: dict[str, Any] = {
        "pairs": len(judged),
        "tcots": thought,
        "kept": kept,
        "share": round(kept / thought, 4) if thought else None,
    }
    for name in ("pair", "query", "target"):
        values = torch.tensor([own[name] for _, own in judged], dtype=torch.float64)
        if len(values):
            marks = values.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
            report[f"gain_{name}"] = {
                "mean": round(float(values.mean()), 4),
                "10 / 50 / 90 %": [round(x, 4) for x in marks],
            }
    return writer.close(), report


def _tcots(sides: Sequence[Side]) -> int:
    return sum(bool(side.tcot) for side in sides)


def _print(report: dict[str, dict[str, Any]]) -> None:
    table = Table(data_set_column(), "pairs", "T-CoTs", "kept", "share kept", "mean gain")
    for name, one in report.items():
        share = "-" if one["share"] is None else f"{one['share']:.0%}"
        mean = f"{one['gain_pair']['mean']:+.4f}" if "gain_pair" in one else "-"
        table.add_row(name, *(f"{one[key]:,}" for key in ("pairs", "tcots", "kept")), share, mean)
    make_console().print(table)
