"""Pictures and scored tasks whose answer is known."""

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from embedrl.metrics.ranking import rank
from embedrl.metrics.retrieval import score, training_metrics
from embedrl.metrics.task_scorer import TaskResult
from embedrl.types import RetrievalTask, Side


class Plain:
    """A picture of one colour."""

    def __init__(self, color: tuple[int, int, int], size: tuple[int, int] = (40, 20)) -> None:
        self.color, self.size, self.name = color, size, f"plain/{color}/{size}"

    def load(self) -> Image.Image:
        return Image.new("RGB", self.size, self.color)


def count(image: Image.Image, color: tuple[int, int, int]) -> int:
    return int((np.asarray(image) == color).all(axis=2).sum())


def result(right: int, dim: int = 8, query: Side | None = None, pool=None) -> TaskResult:
    """One query; candidate `i` scores lower the larger `i`; `right` is the relevant one."""
    candidates = torch.eye(dim)
    vectors = functional.normalize(torch.arange(dim, 0, -1).float(), dim=0)[None]
    sides = [Side(text=f"word {i}", images=(Plain((0, 0, 9 * i)),)) for i in range(dim)]
    task = RetrievalTask(
        "toy", [query or Side(text="which one?")], sides, [{right: 1.0}], None if pool is None else [pool]
    )
    ranking = rank(vectors, candidates, task.qrels, task.pools)
    return TaskResult(task, vectors, candidates, ranking, score(ranking, training_metrics()))
