"""From the vectors that ranks computed piece by piece to the scores of retrieval tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from lightning import LightningModule
from torch import Tensor

from embedrl.data.collate import Place
from embedrl.distributed.collectives import gather_rows
from embedrl.errors import NonFiniteError
from embedrl.metrics.retrieval import Ranking, mean_metrics, rank
from embedrl.types import RetrievalTask
from embedrl.utils.tensorboard import tensorboard_writer

LOGGED = {"hit@1": "hit@1", "hit@5": "hit@5", "ndcg@5": "ndcg_linear@5"}
"""Name in the logs → name in `embedrl.metrics.retrieval`."""


@dataclass(frozen=True)
class TaskResult:
    """A scored task.

    Attributes:
        task: What was scored.
        queries: Its query vectors, `[queries, dim]`, on the CPU.
        candidates: Its candidate vectors, `[candidates, dim]`, on the CPU.
        ranking: The best candidates of every query.
        metrics: Means over queries, by the names of `embedrl.metrics.retrieval`.
    """

    task: RetrievalTask
    queries: Tensor
    candidates: Tensor
    ranking: Ranking
    metrics: Mapping[str, float]

    @property
    def delta_s(self) -> Tensor:
        """`Ranking.delta_s` of the queries that have two candidates. Source: Embed-RL Fig. 4."""
        gaps = self.ranking.delta_s
        return gaps[~gaps.isnan()]


class TaskScorer:
    """Collects the vectors of the tasks' sides on every rank, then scores the tasks.

    Args:
        tasks: The tasks whose sides will come.
    """

    def __init__(self, tasks: Sequence[RetrievalTask]) -> None:
        self.tasks = tasks
        self._places: list[tuple[int, int, int]] = []
        self._vectors: list[Tensor] = []

    def add(self, items: Sequence[Sequence[Place]], vectors: Tensor) -> None:
        """Keep the vectors of one batch.

        Args:
            items: For each row, every place its vector belongs.
            vectors: `[rows, dim]`.

        Raises:
            NonFiniteError: Naming the sides whose vectors are NaN or infinite.
        """
        bad = (~torch.isfinite(vectors).all(dim=1)).nonzero().flatten().tolist()
        if bad:
            place = items[bad[0]][0]
            raise NonFiniteError(
                f"{len(bad)} vectors are not finite, the first of {self.tasks[place.task].name}/{place.kind} "
                f"{place.position}: the model diverged, or computes in a type that overflows"
            )
        rows = [row for row, places in enumerate(items) for _ in places]
        self._places += [(p.task, int(p.kind == "candidate"), p.position) for places in items for p in places]
        self._vectors.append(vectors[torch.tensor(rows, device=vectors.device)])

    def results(self, partial: bool = False) -> list[TaskResult]:
        """Gather the vectors of all ranks and score; every rank returns the same.

        Args:
            partial: Leave out tasks whose vectors are not all there (the run was told to stop early).

        Raises:
            RuntimeError: If vectors are missing and `partial` is False.
        """
        vectors = torch.cat(self._vectors)
        places = gather_rows(torch.tensor(self._places, device=vectors.device)).cpu()
        vectors = gather_rows(vectors).cpu()
        out = []
        for index, task in enumerate(self.tasks):
            sides = []
            for kind, size in enumerate((len(task.queries), len(task.candidates))):
                mine = (places[:, 0] == index) & (places[:, 1] == kind)
                side = vectors.new_full((size, vectors.shape[1]), torch.nan)
                side[places[mine, 2]] = vectors[mine]
                sides.append(side)
            if any(side.isnan().any() for side in sides):
                if not partial:
                    raise RuntimeError(f"the loaders did not deliver every side of the task {task.name}")
                continue
            queries, candidates = sides
            ranking = rank(queries, candidates, task.qrels, task.pools)
            out.append(TaskResult(task, queries, candidates, ranking, mean_metrics(ranking)))
        return out


def log_results(module: LightningModule, stage: str, results: Sequence[TaskResult]) -> None:
    """Log `<stage>/<task>/hit@1` and so on, `delta_s`, and each one's mean over the tasks.

    To TensorBoard also goes the histogram of Δs over the queries of all tasks, so that two validations can be compared.

    Args:
        module: The module whose validation or test it is.
        stage: `val` or `test`.
        results: The scored tasks; may be empty.
    """
    for name, metric in LOGGED.items():
        _log(module, stage, name, {result.task.name: result.metrics[metric] for result in results})
    gaps = {result.task.name: result.delta_s for result in results}
    gaps = {task: values for task, values in gaps.items() if len(values)}
    _log(module, stage, "delta_s", {task: values.mean().item() for task, values in gaps.items()})
    writer = tensorboard_writer(module.trainer)
    if writer is not None and gaps:
        writer.add_histogram(f"{stage}/delta_s", torch.cat(list(gaps.values())), module.global_step)


def _log(module: LightningModule, stage: str, name: str, values: Mapping[str, float]) -> None:
    """Log one figure of every task, and their mean."""
    module.log_dict({f"{stage}/{task}/{name}": value for task, value in values.items()}, sync_dist=True)
    if values:
        mean = sum(values.values()) / len(values)
        module.log(f"{stage}/{name}", mean, prog_bar=name == "hit@1", sync_dist=True)
