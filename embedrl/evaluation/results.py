"""A scored data set: its figures, and the best candidates of every query."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from torch import Tensor

from embedrl.metrics.evidence import evidence_counts
from embedrl.metrics.ranking import Blocks, Ranking, rank_both
from embedrl.metrics.retrieval import RankingMetric, mean_metrics, per_query_metrics, score
from embedrl.tcot.parser import parse
from embedrl.types import RetrievalTask, Side
from embedrl.utils.atomic_files import replacing
from embedrl.utils.ragged import cat_rows


@dataclass(frozen=True)
class SetResult:
    """The figures of one data set.

    Attributes:
        name: Its public name.
        group: The group it belongs to, such as `image/cls`.
        main_metric: The figure that is reported.
        version: Version of the data.
        data_hash: Hash of queries, candidates and judgements: figures with the same one can be compared.
        queries: Number of queries that were scored.
        candidates: Number of candidates.
        expected_queries: Number of queries of the public data, if a source states it.
        metrics: Means over queries, by the names of `embedrl.metrics.retrieval`; ties pessimistic.
        optimistic: The same with ties resolved in favour of relevant candidates: an upper bound of conventional
            figures.
        delta_s: Mean Δs over the queries that have two candidates; None if none has.
        evidence: Mean number of cues of the sides of each modality.
        raw_sides: Sides that were embedded without the T-CoT they should have had.
        tcots: Number of T-CoTs that were cached, written, absent, the tokens spent on them, if known; with a gate, of
            queries that were thinking.
        skipped: What the reader left out, by cause.
        stored: As `metrics`, of the vectors as an index would store them; empty if nobody asked.
        stored_optimistic: As `optimistic`, of those.
    """

    name: str
    group: str
    main_metric: str
    version: str
    data_hash: str
    queries: int
    candidates: int
    expected_queries: int | None
    metrics: Mapping[str, float]
    optimistic: Mapping[str, float]
    delta_s: float | None
    evidence: Mapping[str, float]
    raw_sides: int = 0
    tcots: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    stored: Mapping[str, float] = field(default_factory=dict)
    stored_optimistic: Mapping[str, float] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """The reported figure, 0..1."""
        return self.metrics[self.main_metric]

    @property
    def stored_score(self) -> float | None:
        """The same of the stored vectors; None if nobody asked."""
        return self.stored.get(self.main_metric)


def rank_task(task: RetrievalTask, queries: Blocks, candidates: Blocks, keep: int) -> tuple[Ranking, Ranking]:
    """Rank a task's candidates, ties pessimistic and optimistic; the candidates are read block by block.

    Args:
        task: The task.
        queries: The query vectors.
        candidates: The candidate vectors.
        keep: How many of the best candidates to keep.
    """
    return rank_both(cat_rows(list(queries.read())), candidates, task.qrels, task.pools, keep)


def set_result(
    task: RetrievalTask,
    group: str,
    rankings: tuple[Ranking, Ranking],
    hashes: tuple[Sequence[str], Sequence[str]],
    expected_queries: int | None = None,
    raw_sides: int = 0,
    tcots: Mapping[str, int] | None = None,
    skipped: Mapping[str, int] | None = None,
    extra: Sequence[RankingMetric] = (),
    stored: tuple[Ranking, Ranking] | None = None,
) -> SetResult:
    """The figures of a ranked task.

    Args:
        task: The task, its sides with T-CoTs.
        group: The group it belongs to.
        rankings: What `rank_task` returned.
        hashes: Content hashes of the queries and of the candidates.
        expected_queries: Number of queries of the public data.
        raw_sides: Sides embedded without the T-CoT they should have had.
        tcots: Number of T-CoTs that were cached, written, absent, the tokens spent on them, if known; with a gate, of
            queries that were thinking.
        skipped: What the reader left out.
        extra: Metrics to report besides the standard ones.
        stored: The same rankings of the vectors as an index would store them.
    """
    gaps = rankings[0].delta_s
    gaps = gaps[~gaps.isnan()]
    return SetResult(
        name=task.name,
        group=group,
        main_metric=task.main_metric,
        version=task.version,
        data_hash=data_hash(task, *hashes),
        queries=len(task.queries),
        candidates=len(task.candidates),
        expected_queries=expected_queries,
        metrics=_means(rankings[0], extra),
        optimistic=_means(rankings[1], extra),
        delta_s=gaps.mean().item() if len(gaps) else None,
        evidence={str(modality): mean for modality, mean in evidence_counts([task]).items()},
        raw_sides=raw_sides,
        tcots=dict(tcots or {}),
        skipped=dict(skipped or {}),
        stored={} if stored is None else _means(stored[0], extra),
        stored_optimistic={} if stored is None else _means(stored[1], extra),
    )


def _means(ranking: Ranking, extra: Sequence[RankingMetric]) -> dict[str, float]:
    return {**mean_metrics(ranking), **score(ranking, extra)}


def data_hash(task: RetrievalTask, queries: Sequence[str], candidates: Sequence[str]) -> str:
    """Hash of the content of a task: its sides without T-CoTs, judgements, pools, version and main metric.

    Args:
        task: The task.
        queries: Content hashes of the queries.
        candidates: Content hashes of the candidates.
    """
    digest = hashlib.sha256(json.dumps([task.version, task.main_metric, list(queries), list(candidates)]).encode())
    digest.update(json.dumps([sorted(judged.items()) for judged in task.qrels]).encode())
    for pool in task.pools or ():
        digest.update(json.dumps(sorted(pool)).encode())
    return digest.hexdigest()[:32]


def write_queries(path: Path, task: RetrievalTask, ranking: Ranking) -> None:
    """Write the best candidates of every query as Parquet, one row per query.

    Columns: `query`; `score`, the data set's main metric; `first_relevant`, the rank of the first relevant candidate,
    null if it is not among those kept; `delta_s`; `query_cues` and `target_cues`, the number of cues in the T-CoTs of
    the query and of its most relevant candidate; `found` and `found_scores`, the best candidates and their scores.

    Args:
        path: The file.
        task: The task, its sides with T-CoTs.
        ranking: Its ranking.
    """
    cues: dict[tuple[str, str], int] = {}

    def count(side: Side) -> int:
        key = (side.key, side.tcot)
        if key not in cues:
            cues[key] = len(parse(side.tcot, side.modality, len(side.frames) or None).tcot.cues.of(side.modality))
        return cues[key]

    names = task.candidate_ids or [str(i) for i in range(len(task.candidates))]
    targets = [max(judged, key=lambda col: (judged[col], -col)) for judged in task.qrels]
    table = pa.table(
        {
            "query": pa.array(task.query_ids or [str(i) for i in range(len(task.queries))], pa.string()),
            "score": per_query_metrics(ranking)[task.main_metric].numpy(),
            "first_relevant": pa.array(first_relevant(ranking), pa.int32()),
            "delta_s": pa.array(ranking.delta_s.numpy(), from_pandas=True),
            "query_cues": pa.array([count(side) for side in task.queries], pa.int32()),
            "target_cues": pa.array([count(task.candidates[i]) for i in targets], pa.int32()),
            "found": pa.array([[names[i] for i in row if i >= 0] for row in ranking.indices.tolist()]),
            "found_scores": pa.array([row[row.isfinite()].tolist() for row in ranking.scores]),
        }
    )
    with replacing(path) as part:
        pq.write_table(table, part)


def first_relevant(ranking: Ranking) -> list[int | None]:
    """The rank of each query's first relevant candidate; None if it is not among those kept."""
    hits: Tensor = ranking.relevance > 0
    return [int(row.int().argmax()) + 1 if row.any() else None for row in hits]
