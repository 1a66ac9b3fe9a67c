"""From the vectors that ranks computed piece by piece to the scores of retrieval tasks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from embedrl.data.collate import Place
from embedrl.data.left_out import without
from embedrl.distributed.collectives import gather_objects, gather_rows
from embedrl.errors import NonFiniteError
from embedrl.losses.matryoshka import check_dims, truncate
from embedrl.metrics.ranking import Ranking, rank
from embedrl.metrics.retrieval import KS, RankingMetric, score, training_metrics
from embedrl.types import RetrievalTask
from embedrl.utils.ragged import cat_rows


@dataclass(frozen=True)
class TaskResult:
    """A scored task.

    Attributes:
        task: What was scored.
        queries: Its query vectors, `[queries, dim]` (or `[queries, tokens, dim]`), on the CPU.
        candidates: Its candidate vectors, of the same form, on the CPU.
        ranking: The best candidates of every query.
        metrics: Means over queries, by their names in the log.
        left_out: Number of queries and candidates that the task goes without, bad ones and queries that have no
            relevant candidate left.
    """

    task: RetrievalTask
    queries: Tensor
    candidates: Tensor
    ranking: Ranking
    metrics: Mapping[str, float]
    left_out: int = 0

    @property
    def delta_s(self) -> Tensor:
        """`Ranking.delta_s` of the queries that have two candidates. Source: Embed-RL Fig. 4."""
        gaps = self.ranking.delta_s
        return gaps[~gaps.isnan()]


class TaskScorer:
    """Collects the vectors of the tasks' sides on every rank, then scores the tasks.

    Args:
        tasks: The tasks whose sides will come.
        metrics: What to compute of every task; None: `training_metrics()`.
        dims: Shorter vectors (Matryoshka) to score as well, as `<metric>_dim<length>`.
    """

    def __init__(
        self,
        tasks: Sequence[RetrievalTask],
        metrics: Sequence[RankingMetric] | None = None,
        dims: Sequence[int] = (),
    ) -> None:
        self.tasks, self.dims = tasks, dims
        self.metrics = training_metrics() if metrics is None else metrics
        self._places: list[tuple[int, int, int]] = []
        self._vectors: list[Tensor] = []
        self._left_out: list[Place] = []

    def add(self, items: Sequence[Sequence[Place]], vectors: Tensor, bad: Collection[int] = ()) -> None:
        """Keep the vectors of one batch.

        Args:
            items: For each row, every place its vector belongs.
            vectors: `[rows, dim]`, or token vectors `[rows, tokens, dim]`, padded with zeros.
            bad: Rows of bad sides (`EncodeBatch.bad`): their places are left out of the tasks.

        Raises:
            NonFiniteError: Naming the sides whose vectors are NaN or infinite.
        """
        infinite = (~torch.isfinite(vectors).flatten(1).all(dim=1)).nonzero().flatten().tolist()
        infinite = [row for row in infinite if row not in bad]
        if infinite:
            place = items[infinite[0]][0]
            raise NonFiniteError(
                f"{len(infinite)} vectors are not finite, the first of {self.tasks[place.task].name}/{place.kind} "
                f"{place.position}: the model diverged, or computes in a type that overflows"
            )
        self._left_out += [place for row in bad for place in items[row]]
        items = [[] if row in bad else places for row, places in enumerate(items)]
        rows = [row for row, places in enumerate(items) for _ in places]
        self._places += [(p.task, int(p.kind == "candidate"), p.position) for places in items for p in places]
        self._vectors.append(vectors[torch.tensor(rows, dtype=torch.long, device=vectors.device)])

    def results(self, partial: bool = False) -> list[TaskResult]:
        """Gather the vectors of all ranks and score; every rank returns the same.

        Args:
            partial: Leave out tasks whose vectors are not all there (the run was limited to fewer batches).

        Raises:
            ConfigError: If one of `dims` is not below the vectors' own length.
            RuntimeError: If vectors are missing and `partial` is False.
            DataError: If nothing is left of a task.
        """
        left_out = gather_objects(self._left_out)
        vectors = cat_rows(self._vectors)
        places = gather_rows(torch.tensor(self._places, dtype=torch.long, device=vectors.device).reshape(-1, 3)).cpu()
        vectors = gather_rows(vectors).cpu()
        check_dims(self.dims, vectors.shape[-1])
        keep = max([*KS, *(metric.k for metric in self.metrics)])
        out = []
        for index, task in enumerate(self.tasks):
            sides = []
            for kind, size in enumerate((len(task.queries), len(task.candidates))):
                mine = (places[:, 0] == index) & (places[:, 1] == kind)
                side = vectors.new_full((size, *vectors.shape[1:]), torch.nan)
                side[places[mine, 2]] = vectors[mine]
                sides.append(side)
            sizes = len(task.queries) + len(task.candidates)
            if bad := [place for place in left_out if place.task == index]:
                kept = without(
                    task,
                    {place.position for place in bad if place.kind == "query"},
                    {place.position for place in bad if place.kind == "candidate"},
                )
                task, sides = kept.task, [sides[0][kept.queries], sides[1][kept.candidates]]
            if any(side.isnan().any() for side in sides):
                if not partial:
                    raise RuntimeError(f"the loaders did not deliver every side of the task {task.name}")
                continue
            queries, candidates = sides
            absent = sizes - len(queries) - len(candidates)
            ranking = rank(queries, candidates, task.qrels, task.pools, keep)
            metrics = dict(score(ranking, self.metrics))
            for dim in self.dims:
                short = rank(truncate(queries, dim), truncate(candidates, dim), task.qrels, task.pools, keep)
                metrics |= {f"{name}_dim{dim}": value for name, value in score(short, self.metrics).items()}
            out.append(TaskResult(task, queries, candidates, ranking, metrics, absent))
        return out
