"""A callback that counts the operations of a training as `torch.utils.flop_counter` sees them, and takes its time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch.utils.flop_counter import FlopCounterMode


class CountFlops(Callback):
    """Count the operations of some batches, spread over the run, and write what the whole run takes.

    Everything that a batch does is counted: forward and backward passes, rollouts, rewards. `embedrl plan` counts by
    the same counter, on shapes; here they are the real batches. A multiplication and an addition are two operations.

    Args:
        out: The JSON file to write at the end of the run: `flops` of the whole run, `steps`, `seconds`, `cpu_seconds`
            (this process's, which do not depend on what else runs) and `counted` batches; their counting is part of the
            seconds.
        samples: About how many batches to count.
    """

    def __init__(self, out: str, samples: int = 5) -> None:
        self.out, self.samples = Path(out), samples
        self._counted: list[int] = []
        self._mode: FlopCounterMode | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = time.monotonic(), time.process_time()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin to count, if it is this batch's turn."""
        if trainer.global_step % max(1, trainer.max_steps // self.samples) == 0:
            self._mode = FlopCounterMode(display=False)
            self._mode.__enter__()  # type: ignore[no-untyped-call]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End counting."""
        if self._mode is not None:
            self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._counted.append(self._mode.get_total_flops())
            self._mode = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the figures."""
        steps, counted = trainer.global_step, self._counted
        figures = {
            "flops": sum(counted) / len(counted) * steps,
            "steps": steps,
            "seconds": round(time.monotonic() - self._started[0], 1),
            "cpu_seconds": round(time.process_time() - self._started[1], 1),
            "counted": len(counted),
        }
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(figures) + "\n", encoding="utf-8")
