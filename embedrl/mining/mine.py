"""`embedrl mine`: hard negatives for the pairs of a mix, found by an Embedder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from rich.table import Table

from embedrl.construction.rows import JOURNALS, PairWriter, write_mix
from embedrl.data.mix import MixRow, check_labels
from embedrl.data.on_bad import FILE, MAX_BAD, OnBad, OnBadMode
from embedrl.data.render import RenderOptions
from embedrl.distributed.collectives import gather_objects, world_size
from embedrl.distributed.processes import Device, processes
from embedrl.evaluation.remaining import Remaining
from embedrl.evaluation.vectors import EncodeOptions, VectorCache
from embedrl.inference.frozen_embedder import check_single
from embedrl.inference.reranker import Reranker
from embedrl.metrics.ranking import Blocks
from embedrl.mining.neighbours import MiningOptions, Neighbours, find_neighbours
from embedrl.mining.pair_reading import read_pairs
from embedrl.mining.reporting import write_report
from embedrl.mining.samples import Sample, draw_samples
from embedrl.models.backbone import Backbone
from embedrl.tcot.prompts import Style
from embedrl.training.trained_model import check_think, load_reranker
from embedrl.types import Pair, RetrievalTask, Side
from embedrl.utils.console import data_set_column, make_console, tell
from embedrl.utils.file_names import check_file_names

_SAMPLES = 8
_OWN, _KNOWN = 2.0, 1.0  # relevance of a pair's own target, and of other known positives of its query


def mine(
    mix: list[MixRow],
    backbone: Backbone,
    out: Path,
    options: MiningOptions = MiningOptions(),  # noqa: B008 (frozen)
    render: RenderOptions = RenderOptions(),  # noqa: B008 (frozen)
    encode: EncodeOptions = EncodeOptions(),  # noqa: B008 (frozen)
    reranker: str | None = None,
    think: int = 0,
    style: Style = "full",
    device: Device = "auto",
    seed: int = 0,
    on_bad: OnBadMode = "raise",
    max_bad: int = MAX_BAD,
) -> None:
    """Give each pair of a mix the targets of its data set that an Embedder finds most alike, but less than its own.

    Writes `mix.yaml` with its JSONL files, which hold the negatives and, as `score` and `negative_scores`, a teacher's
    scores for `embedrl.losses.Distillation`: the Embedder's cosines, or the logits of a reranker; `report.json`, and
    under `samples/` a page of each data set's samples to look at. The negatives of a data set's rows join its corpus.
    Restarted after an interruption, it resumes: vectors that were finished are not computed again. Several processes
    (`torchrun --nproc_per_node 2 -m embedrl mine ...`) share the work of embedding.

    Args:
        mix: The data sets, of pairs with or without T-CoTs.
        backbone: The Embedder.
        out: The folder to write to.
        options: What counts as a hard negative.
        render: What the Embedder reads of a side.
        encode: Where vectors are stored, and how they are computed.
        reranker: A model that learned to rerank; see configs/world/reranker.yaml. It reads each pair's target and the
            negatives that the Embedder chose, on the first process, and its log p(yes) - log p(no) are the scores.
        think: For a reranker that thinks (configs/world/reranker_thoughts.yaml): its longest thought in tokens.
        style: The reranker's question: that of its lessons.
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
    settings |= {"reranker": reranker, "think": think, "style": style}
    check_think(think, reranker)
    check_single(backbone, "embedrl mine")
    check_file_names(check_labels(mix), "--mix", JOURNALS)
    bad = OnBad(on_bad, max_bad, "--")
    with processes(device) as (place, rank):
        if rank == 0:
            out.mkdir(parents=True, exist_ok=True)
            bad.keep(out / FILE)
        lightning.seed_everything(seed, verbose=False)
        started = time.monotonic()
        vectors = VectorCache(encode.cache or out / "vectors", backbone, render, place, encode, rank)
        report, rows = {}, []
        teacher = load_reranker(reranker, style, think) if reranker and rank == 0 else None
        if teacher is not None:
            teacher.build(place)
        for row in mix:
            left = _embed(row, vectors, bad)
            if rank == 0:
                figures, written = _write(row, left, options, out, teacher)
                report[row.label] = figures
                rows.append(written)
                tell(f"{row.label}: {figures['negatives']:,} negatives for {figures['pairs']:,} pairs")
        computed, joined = sum(gather_objects([vectors.computed])), world_size()
    if rank != 0:
        return
    write_mix(out / "mix.yaml", rows)
    facts = {"data_sets": report, "model": vectors.identity, "processes": joined, "sides_embedded": computed}
    write_report(out, facts, started, settings)
    _print(report)
    tell(f"wrote {out / 'mix.yaml'}; look at {out / 'samples'} before training on it")


@dataclass
class _Corpus:
    """The pairs of a data set that can be used, and its candidates, each content once.

    Attributes:
        pairs: The pairs.
        sides: The candidates: targets and hard negatives.
        own: Position of each pair's target among them.
        known: Positions of all known positives of each pair's query.
    """

    pairs: list[Pair]
    sides: Sequence[Side]
    own: list[int]
    known: list[set[int]]


@dataclass
class _Embedded:
    """A data set whose sides have vectors.

    Attributes:
        pairs: Its pairs that could be read.
        left: What is left of it.
        queries: Vectors of the queries.
        candidates: Vectors of the candidates.
    """

    pairs: list[Pair]
    left: Remaining
    queries: Blocks
    candidates: Blocks


def _embed(row: MixRow, vectors: VectorCache, bad: OnBad) -> _Embedded:
    """Embed one data set, on all processes."""
    pairs, unreadable = read_pairs(row, bad)
    left = Remaining(_task(row.label, pairs), bad, skipped=unreadable)
    left.hash(vectors)
    _once(left)
    return _Embedded(pairs, left, *left.embed(vectors))


def _write(
    row: MixRow, embedded: _Embedded, options: MiningOptions, out: Path, reranker: Reranker | None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Mine one data set; its report, and the mix row that reads what was written."""
    left, corpus = embedded.left, _corpus(embedded.pairs, embedded.left)
    rows = torch.tensor([i for i, judged in enumerate(left.task.qrels) if _OWN in judged.values()])
    vectors_of = torch.cat(list(embedded.queries.read()))[rows]
    neighbours = list(find_neighbours(vectors_of, embedded.candidates, corpus.own, corpus.known, options))
    writer = PairWriter(out, row.label, row.source, row.weight)
    for pair, one in zip(corpus.pairs, neighbours, strict=True):
        negatives = tuple(corpus.sides[i] for i, _ in one.negatives)
        scores = tuple(score for _, score in one.negatives)
        scored = replace(pair, negatives=negatives, score=one.score, negative_scores=scores)
        writer.write(scored if reranker is None else _read_by(reranker, scored))
    (out / "samples").mkdir(exist_ok=True)
    draw_samples(row.label, _samples(corpus, neighbours, options)).save(out / "samples" / f"{writer.slug}.png")
    return {**_figures(corpus, neighbours), "skipped": dict(left.skipped)}, writer.close()


def _read_by(reranker: Reranker, pair: Pair) -> Pair:
    """The pair with a reranker's logits as scores."""
    name = f"{pair.dataset}/{pair.id}"
    score, *others = reranker.logits(pair.query, [pair.target, *pair.negatives], name).tolist()
    return replace(pair, score=score, negative_scores=tuple(others))


def _task(name: str, pairs: Sequence[Pair]) -> RetrievalTask:
    """Each pair's query, with its target and its hard negatives as candidates of their own."""
    sides: list[Side] = []
    qrels = []
    for pair in pairs:
        qrels.append({len(sides): _OWN})
        sides += [pair.target, *pair.negatives]
    return RetrievalTask(name, [pair.query for pair in pairs], sides, qrels)


def _once(left: Remaining) -> None:
    """Keep each candidate's content once, and make all targets of a query's content its known positives."""
    first: dict[str, int] = {}
    for i, digest in enumerate(left.hashes[1]):
        first.setdefault(digest, i)
    kept = list(first.values())
    place = {left.hashes[1][i]: new for new, i in enumerate(kept)}
    own = [place[left.hashes[1][next(iter(judged))]] for judged in left.task.qrels]
    known: dict[str, set[int]] = {}
    for digest, target in zip(left.hashes[0], own, strict=True):
        known.setdefault(digest, set()).add(target)
    qrels = [
        {**dict.fromkeys(sorted(known[digest]), _KNOWN), target: _OWN}
        for digest, target in zip(left.hashes[0], own, strict=True)
    ]
    left.task = replace(left.task, candidates=[left.task.candidates[i] for i in kept], qrels=qrels)
    left.hashes = left.hashes[0], [left.hashes[1][i] for i in kept]
    left.places = left.places[0], [left.places[1][i] for i in kept]


def _corpus(pairs: Sequence[Pair], left: Remaining) -> _Corpus:
    """What is left, without pairs whose own target went; at least one is left."""
    own, known, kept = [], [], []
    for place, judged in zip(left.places[0], left.task.qrels, strict=True):
        target = next((i for i, value in judged.items() if value == _OWN), None)
        if target is not None:
            own.append(target)
            known.append(set(judged))
            kept.append(pairs[place])
    return _Corpus(kept, left.task.candidates, own, known)


def _samples(corpus: _Corpus, neighbours: Sequence[Neighbours], options: MiningOptions) -> list[Sample]:
    """Pairs at equal distances, those with negatives first."""
    mined = [i for i, one in enumerate(neighbours) if one.negatives] or list(range(len(neighbours)))
    picked = [mined[i * len(mined) // _SAMPLES] for i in range(_SAMPLES)] if len(mined) > _SAMPLES else mined
    ceilings = {i: options.ceiling(neighbours[i].score) for i in picked}
    return [Sample.of(corpus.pairs[i], neighbours[i], corpus.sides, ceilings[i]) for i in picked]


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
        "positive_score": round(sum(one.score for one in neighbours) / max(pairs, 1), 4),
        "negative_score": round(sum(scores) / len(scores), 4) if scores else None,
        "hit@1": round(sum(one.rank == 0 for one in neighbours) / max(pairs, 1), 4),
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
