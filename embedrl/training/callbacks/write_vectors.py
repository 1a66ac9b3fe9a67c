"""The vectors of `embedrl predict`, as Parquet files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from embedrl.data.collate import Place
from embedrl.distributed.collectives import gather_objects
from embedrl.errors import ConfigError, NonFiniteError
from embedrl.losses.maxsim import token_mask
from embedrl.types import RetrievalTask
from embedrl.utils.atomic_files import replacing
from embedrl.utils.console import escaped

_ROWS = 4096  # of a row group


class WriteVectors(Callback):
    """Writes every vector that `embedrl predict` computes, with what it is the vector of.

    Each process writes `rank_<number>.parquet` in one folder, which any reader of Parquet takes as one table. A row is
    a query or a candidate of a task: `task`, `kind` (`query` or `candidate`), `position` in the task, `id` (as its data
    set names it, or else the position), and `vector`, a list of float32
    (of an Embedder with one vector a token, a list of them). Rows come in no order. A file appears when it
    is whole; nothing is ever overwritten.

    Args:
        out: The folder, which must not exist; None means `vectors` in the run's folder.
    """

    def __init__(self, out: Path | None = None) -> None:
        self.out = out
        self._file: _File | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See that there is something to embed.

        Raises:
            ConfigError: If there is nothing.
        """
        if stage == "predict" and not _tasks(trainer):
            raise ConfigError("nothing to embed: give the data module tasks (data.test)")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the folder.

        Raises:
            ConfigError: If it is there already, or cannot be made.
        """
        folder = self.out or Path(trainer.log_dir or trainer.default_root_dir) / "vectors"
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        problem = _make(folder) if trainer.is_global_zero else ""
        if problem := trainer.strategy.broadcast(problem):
            raise ConfigError(problem)
        folder.mkdir(parents=True, exist_ok=True)  # of another machine, with a disk of its own
        self._file = _File(folder, trainer.global_rank, _tasks(trainer))

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the vectors of a batch.

        Raises:
            ConfigError: If the module's `predict_step` returns something else than the Embedder's.
            NonFiniteError: If a vector is NaN or infinite.
        """
        if self._file is None:
            return
        if not isinstance(outputs, dict) or not {"items", "vectors"} <= outputs.keys():
            raise ConfigError(
                f"{type(pl_module).__name__}.predict_step returns no `items` and `vectors` as the Embedder's does: "
                "give trainer.callbacks a BasePredictionWriter of your own"
            )
        self._file.add(outputs["items"], outputs["vectors"])

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the files to their places, and say where they are."""
        if self._file is None:
            return
        self._file.close()
        rows = sum(gather_objects([self._file.rows]))
        if trainer.is_global_zero:
            tasks = len(_tasks(trainer))
            sys.stdout.write(
                escaped(f"Wrote {rows:,} vectors of length {self._file.dim} of {tasks} tasks to {self._file.folder}\n")
            )
        self._file = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove what was begun."""
        if self._file is not None:
            self._file.give_up(exception)
            self._file = None


class _File:
    """The Parquet file of one process.

    Args:
        folder: Where it goes.
        rank: This process.
        tasks: The tasks that are embedded.
    """

    def __init__(self, folder: Path, rank: int, tasks: Sequence[RetrievalTask]) -> None:
        self.folder, self.tasks, self.rows, self.dim = folder, tasks, 0, 0
        self._path = folder / f"rank_{rank}.parquet"
        self._stack = ExitStack()
        self._writer: Any = None
        self._waiting: list[tuple[Place, Tensor]] = []

    def add(self, items: Sequence[Sequence[Place]], vectors: Tensor) -> None:
        """Add a batch: for each row of `vectors`, every place that it belongs to."""
        bad = (~torch.isfinite(vectors).flatten(1).all(dim=1)).nonzero().flatten().tolist()
        if bad:
            place = items[bad[0]][0]
            raise NonFiniteError(
                f"{len(bad)} vectors are not finite, the first of {self.tasks[place.task].name}/{place.kind} "
                f"{place.position}: the model diverged, or computes in a type that overflows"
            )
        rows = list(vectors.detach().float().cpu())
        if vectors.ndim == 3:
            rows = [row[mask] for row, mask in zip(rows, token_mask(torch.stack(rows)), strict=True)]
        self._waiting += [(place, row) for places, row in zip(items, rows, strict=True) for place in places]
        if len(self._waiting) >= _ROWS:
            self._write()

    def close(self) -> None:
        """Write the rest, and move the file to its place."""
        self._write()
        if self._writer is not None:
            self._writer.close()
        self._stack.close()

    def give_up(self, error: BaseException) -> None:
        """Remove the file, and the folder if it is empty."""
        if self._writer is not None:
            self._writer.close()
        self._stack.__exit__(type(error), error, error.__traceback__)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _write(self) -> None:
        if not self._waiting:
            return
        places, vectors = zip(*self._waiting, strict=True)
        self.rows, self.dim = self.rows + len(vectors), vectors[0].shape[-1]
        table = pa.table(
            {
                "task": [self.tasks[place.task].name for place in places],
                "kind": [place.kind for place in places],
                "position": pa.array([place.position for place in places], pa.int64()),
                "id": [_id(self.tasks[place.task], place) for place in places],
                "vector": _column(vectors),
            }
        )
        if self._writer is None:
            part = self._stack.enter_context(replacing(self._path, sync=True))
            self._writer = pq.ParquetWriter(part, table.schema)
        self._writer.write_table(table)
        self._waiting = []


def _column(vectors: Sequence[Tensor]) -> Any:
    """Vectors `[dim]`, or those of each side's tokens `[tokens, dim]`, as a column."""
    dim = vectors[0].shape[-1]
    values = pa.array(torch.cat([vector.reshape(-1) for vector in vectors]).numpy(), pa.float32())
    column = pa.FixedSizeListArray.from_arrays(values, dim)
    if vectors[0].ndim == 1:
        return column
    ends = torch.tensor([0, *map(len, vectors)]).cumsum(0)
    return pa.ListArray.from_arrays(pa.array(ends.numpy(), pa.int32()), column)


def _id(task: RetrievalTask, place: Place) -> str:
    names = task.query_ids if place.kind == "query" else task.candidate_ids
    return str(place.position) if names is None else names[place.position]


def _tasks(trainer: Trainer) -> Sequence[RetrievalTask]:
    tasks: Sequence[RetrievalTask] = getattr(getattr(trainer, "datamodule", None), "tasks", [])
    return tasks


def _make(folder: Path) -> str:
    """Make a new folder; returns why it cannot be made."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return f"{folder}: is there already, and vectors are never overwritten: move it, or give another place"
    except OSError as error:
        return f"{folder}: cannot be made ({error.strerror}): give another place"
    return ""
