"""Pictures of what was retrieved: queries with their best candidates, the right one framed in green."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from embedrl.training.progress import curve_step
from embedrl.utils.file_names import file_name
from embedrl.utils.tensorboard import tensorboard_writer
from embedrl.visualization.grids import draw_grid

if TYPE_CHECKING:
    from embedrl.metrics.task_scorer import TaskResult


class RetrievalGrid(Callback):
    """After every validation, one picture per task: to TensorBoard and, the last one, to `retrieval_grid/` as PNG.

    Args:
        num_queries: Queries per picture, spread evenly over the task: the same ones every time.
        top_k: Candidates per query; at most as many as the ranking keeps (10).
    """

    def __init__(self, num_queries: int = 5, top_k: int = 5) -> None:
        self.num_queries = num_queries
        self.top_k = top_k

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what the module scored."""
        log_dir = trainer.log_dir  # on every process: rank 0 broadcasts it
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        results: list[TaskResult] = getattr(pl_module, "validation", [])
        writer = tensorboard_writer(trainer)
        for result in results:
            picture = draw_grid(result, self.num_queries, self.top_k)
            if writer is not None:
                tag = f"retrieval/{result.task.name}"
                writer.add_image(
                    tag, np.asarray(picture), curve_step(trainer.global_step, pl_module), dataformats="HWC"
                )
            if log_dir:
                folder = Path(log_dir) / "retrieval_grid"
                folder.mkdir(parents=True, exist_ok=True)
                picture.save(folder / f"{file_name(result.task.name)}.png")
