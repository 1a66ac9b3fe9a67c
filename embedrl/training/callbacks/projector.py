"""The vectors of the last validation in TensorBoard's embedding projector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn import functional

from embedrl.training.progress import curve_step
from embedrl.utils.tensorboard import tensorboard_writer
from embedrl.visualization.drawing import thumbnail

if TYPE_CHECKING:
    from embedrl.metrics.task_scorer import TaskResult

_HEADER = ["task", "kind", "pair", "text"]


class EmbeddingProjector(Callback):
    """When `fit` ends, writes vectors with labels and thumbnails for TensorBoard's PROJECTOR tab.

    The labels: task, `query` or `candidate`, `pair` (a query's number, which its right candidate shares), text. A side
    that has one vector a token is drawn at their mean.

    Args:
        max_points: At most this many vectors per task.
        sprite_size: Side of a thumbnail in pixels.
    """

    def __init__(self, max_points: int = 128, sprite_size: int = 48) -> None:
        self.max_points = max_points
        self.sprite_size = sprite_size

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the projector's files."""
        results: list[TaskResult] = getattr(pl_module, "validation", [])
        writer = tensorboard_writer(trainer)
        if writer is None or not results or not trainer.is_global_zero:
            return
        parts = [project(result, self.max_points, self.sprite_size) for result in results]
        writer.add_embedding(
            torch.cat([vectors for vectors, _, _ in parts]),
            metadata=[row for _, rows, _ in parts for row in rows],
            label_img=torch.cat([sprites for _, _, sprites in parts]),
            metadata_header=_HEADER,
            tag="validation",
            global_step=curve_step(trainer.global_step, pl_module),
        )


def project(
    result: TaskResult, max_points: int, sprite_size: int
) -> tuple[torch.Tensor, list[list[str]], torch.Tensor]:
    """Vectors `[points, dim]`, labels and thumbnails `[points, 3, size, size]` (0..1) of a task.

    Takes queries in order, each with its right candidates, until there are `max_points`; at least one.
    """
    task = result.task
    places: dict[tuple[str, int], int] = {}
    for number, judged in enumerate(task.qrels):
        right = [col for col, value in judged.items() if value > 0]
        if places and len(places) + 1 + len(right) > max_points:
            break
        places[("query", number)] = number
        for col in right:
            places.setdefault(("candidate", col), number)
    vectors, rows, sprites = [], [], []
    for (kind, index), pair in places.items():
        side = (task.queries if kind == "query" else task.candidates)[index]
        vector = (result.queries if kind == "query" else result.candidates)[index].float()
        vectors.append(vector if vector.ndim == 1 else functional.normalize(vector.sum(0), dim=0))
        rows.append([task.name, kind, str(pair), " ".join(side.text.split())[:200] or "-"])
        picture = np.asarray(thumbnail(side, sprite_size), dtype=np.float32) / 255
        sprites.append(torch.from_numpy(picture).permute(2, 0, 1))
    return torch.stack(vectors), rows, torch.stack(sprites)
