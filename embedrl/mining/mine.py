"""`embedrl mine`: hard negatives for the pairs of a mix, found by an Embedder."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from rich.table import Table

from embedrl.construction.rows import PairWriter, check_slugs, write_mix
from embedrl.data.mix import MixRow, check_labels
from embedrl.data.render import RenderOptions
from embedrl.errors import ConfigError
from embedrl.evaluation.vectors import EncodeOptions, VectorCache
from embedrl.mining.neighbours import MiningOptions, Neighbours, find_neighbours
from embedrl.mining.samples import Sample, draw_samples
from embedrl.models.backbone import Backbone
from embedrl.training.checkpoints import config_form
from embedrl.types import Pair, Side
from embedrl.utils.atomic_files import replacing
from embedrl.utils.console import data_set_column, make_console, tell
from embedrl.utils.secrets import without_secrets
from embedrl.utils.versions import environment

_SAMPLES = 8


def mine(
    mix: list[MixRow],
    backbone: Backbone,
    out: Path,
    options: MiningOptions = MiningOptions(),  # noqa: B008 (frozen)
    render: RenderOptions = RenderOptions(),  # noqa: B008 (frozen)
    encode: EncodeOptions = EncodeOptions(),  # noqa: B008 (frozen)
    device: Literal["auto", "cpu", "cuda"] = "auto",
    seed: int = 0,
) -> None:
    """Give each pair of a mix the targets of its data set that an Embedder finds most alike, but less than its own.

    Writes `mix.yaml` with its JSONL files, which hold the negatives and the Embedder's cosines as `score` and
    `negative_scores` (a teacher's scores for `embedrl.losses.Distillation`), `report.json`, and under `samples/` a page
    of each data set's samples to look at. The negatives of a data set's rows join its corpus. Restarted after an
    interruption, it resumes: vectors that were finished are not computed again.

    Args:
        mix: The data sets, of pairs with or without T-CoTs.
        backbone: The Embedder.
        out: The folder to write to.
        options: What counts as a hard negative.
        render: What the Embedder reads of a side.
        encode: Where vectors are stored, and how they are computed.
        device: Where to compute; auto takes a GPU if there is one.
        seed: Seed of weights that no checkpoint holds.

    Raises:
        ConfigError: If a flag is wrong.
        DataError: If a pair cannot be read or embedded, or none is left.
        CheckpointError: If the model cannot be read.
        NonFiniteError: If a vector is NaN or infinite.
    """
    settings = {"backbone": backbone, "options": options, "render": render, "encode": encode, "seed": seed}
    check_slugs(check_labels(mix))
    cuda = torch.cuda.is_available() and device != "cpu"
    if device == "cuda" and not cuda:
        raise ConfigError("--device cuda: torch finds no GPU here; give cpu or auto")
    out.mkdir(parents=True, exist_ok=True)
    lightning.seed_everything(seed, verbose=False)
    started = time.monotonic()
    place = torch.device("cuda" if cuda else "cpu")
    vectors = VectorCache(encode.cache or out / "vectors", backbone, render, place, encode)
    report, rows = {}, []
    for row in mix:
        report[row.label], written = _mine(row, vectors, options, out)
        rows.append(written)
        tell(f"{row.label}: {report[row.label]['negatives']:,} negatives for {report[row.label]['pairs']:,} pairs")
    write_mix(out / "mix.yaml", rows)
    facts = {
        "data_sets": report,
        "model": vectors.identity,
        "sides_embedded": vectors.computed,
        "wall_seconds": round(time.monotonic() - started, 1),
        **environment(),
        "config": without_secrets(config_form(settings)),
    }
    with replacing(out / "report.json") as part:
        part.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    _print(report)
    tell(f"wrote {out / 'mix.yaml'}; look at {out / 'samples'} before training on it")


@dataclass
class _Corpus:
    """The pairs of a data set and its candidates, each content once.

    Attributes:
        pairs: The pairs.
        sides: The candidates: targets and hard negatives.
        own: Position of each pair's target among them.
        known: Positions of all known positives of each pair's query.
    """

    pairs: list[Pair]
    sides: list[Side]
    own: list[int]
    known: list[set[int]]


def _corpus(row: MixRow, vectors: VectorCache) -> _Corpus:
    pairs = [row.source[i] for i in range(len(row.source))]
    every = [side for pair in pairs for side in (pair.target, *pair.negatives)]
    places: dict[str, int] = {}
    sides: list[Side] = []
    position = []
    for digest, side in zip(vectors.hashes(every), every, strict=True):
        if digest not in places:
            places[digest] = len(sides)
            sides.append(side)
        position.append(places[digest])
    own, start = [], 0
    for pair in pairs:
        own.append(position[start])
        start += 1 + len(pair.negatives)
    of_query: dict[str, set[int]] = {}
    digests = vectors.hashes([pair.query for pair in pairs])
    for digest, target in zip(digests, own, strict=True):
        of_query.setdefault(digest, set()).add(target)
    return _Corpus(pairs, sides, own, [of_query[digest] for digest in digests])


def _mine(
    row: MixRow, vectors: VectorCache, options: MiningOptions, out: Path
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Mine one data set; its report, and the mix row that reads what was written."""
    corpus = _corpus(row, vectors)
    sides = [pair.query for pair in corpus.pairs]
    blocks = vectors.embed(sides, vectors.hashes(sides), f"{row.label}/query")
    candidates = vectors.embed(corpus.sides, vectors.hashes(corpus.sides), f"{row.label}/candidate")
    queries = torch.cat(list(blocks.read()))
    neighbours = list(find_neighbours(queries, candidates, corpus.own, corpus.known, options))
    writer = PairWriter(out, row.label, row.source, row.weight)
    for pair, one in zip(corpus.pairs, neighbours, strict=True):
        negatives = tuple(corpus.sides[i] for i, _ in one.negatives)
        scores = tuple(score for _, score in one.negatives)
        writer.write(replace(pair, negatives=negatives, score=one.score, negative_scores=scores))
    (out / "samples").mkdir(exist_ok=True)
    draw_samples(row.label, _samples(corpus, neighbours)).save(out / "samples" / f"{writer.slug}.png")
    return _figures(corpus, neighbours), writer.close()


def _samples(corpus: _Corpus, neighbours: Sequence[Neighbours]) -> list[Sample]:
    """Pairs at equal distances, those with negatives first."""
    mined = [i for i, one in enumerate(neighbours) if one.negatives] or list(range(len(neighbours)))
    picked = [mined[i * len(mined) // _SAMPLES] for i in range(_SAMPLES)] if len(mined) > _SAMPLES else mined
    return [Sample.of(corpus.pairs[i], neighbours[i], corpus.sides) for i in picked]


def _figures(corpus: _Corpus, neighbours: Sequence[Neighbours]) -> dict[str, Any]:
    scores = [score for one in neighbours for _, score in one.negatives]
    pairs = len(corpus.pairs)
    return {
        "pairs": pairs,
        "candidates": len(corpus.sides),
        "negatives": len(scores),
        "pairs_with_negatives": sum(bool(one.negatives) for one in neighbours),
        "doubtful_pairs": sum(one.doubtful for one in neighbours),
        "left_out_above": sum(len(one.above) for one in neighbours),
        "positive_score": round(sum(one.score for one in neighbours) / pairs, 4),
        "negative_score": round(sum(scores) / len(scores), 4) if scores else None,
        "hit@1": round(sum(one.rank == 0 for one in neighbours) / pairs, 4),
    }


def _print(report: dict[str, dict[str, Any]]) -> None:
    table = Table(
        data_set_column(), "pairs", "with negatives", "negatives", "above the ceiling", "cosine +", "cosine -"
    )
    for name, one in report.items():
        negative = "-" if one["negative_score"] is None else f"{one['negative_score']:.3f}"
        counts = [one[key] for key in ("pairs", "pairs_with_negatives", "negatives", "left_out_above")]
        table.add_row(name, *(f"{count:,}" for count in counts), f"{one['positive_score']:.3f}", negative)
    make_console().print(table)
