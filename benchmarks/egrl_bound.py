"""The phases of an EG-RL step beside the least that their operations take on this machine: what is left to gain.

    python benchmarks/egrl_bound.py                    # the step of egrl_step.py
    python benchmarks/egrl_bound.py --model 130m --pairs 1 --repeats 1
    python benchmarks/egrl_bound.py --size smallest    # seconds

Operations are those of matrix products and attention, counted by PyTorch on the tensors of a step. The least time is
theirs at the speed at which one thread multiplies two square matrices of 1,024 rows. Took are medians of CPU seconds.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Literal
from unittest.mock import patch

import torch
from checkpoints import write
from egrl_step import Setting, endless
from jsonargparse import auto_cli
from lightning.pytorch import Callback, LightningModule, Trainer
from timing import Row, quiet_trainer, report
from torch.utils.flop_counter import FlopCounterMode

from embedrl.rl.statistics import PhaseClock


class Phases(Callback):
    """Takes CPU seconds of the phases of every step, and the operations of those of the last.

    Args:
        steps: Steps of the run; the first is for warming up, and the last, whose operations are counted, is not timed.

    Attributes:
        seconds: CPU seconds of each phase, a value a step.
        operations: Operations of each phase.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.seconds: dict[str, list[float]] = {}
        self.operations: dict[str, int] = {}
        self._counter = FlopCounterMode(display=False)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the step."""
        self._batch = batch_idx
        if batch_idx == self.steps - 1:
            self._counter.__enter__()  # type: ignore[no-untyped-call]
        self._start, self._counted = time.process_time(), 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End counting."""
        if batch_idx == self.steps - 1:
            self._counter.__exit__(None, None, None)

    def lap(self, phase: str) -> None:
        """End a phase; the next one starts."""
        end = time.process_time()
        if self._batch == self.steps - 1:
            total = self._counter.get_total_flops()
            self.operations[phase] = total - self._counted
            self._counted = total
        elif self._batch:
            self.seconds.setdefault(phase, []).append(end - self._start)
        self._start = time.process_time()


def peak(rows: int = 1024, repeats: int = 20) -> float:
    """Operations a second of a matrix product in this thread: the fastest of several."""
    a, b = torch.randn(2, rows, rows).unbind(0)
    took = []
    for _ in range(repeats):
        start = time.process_time()
        torch.mm(a, b)
        took.append(time.process_time() - start)
    return 2 * rows**3 / min(took)


def measure(setting: Setting, repeats: int) -> list[Row]:
    """A row for each phase, and for the step."""
    phases = Phases(repeats + 2)
    trainer, clock = quiet_trainer(setting.folder, phases.steps, phases), PhaseClock.lap

    def lap(own: PhaseClock, phase: str) -> None:
        clock(own, phase)
        phases.lap(phase)

    with patch.object(PhaseClock, "lap", lap):
        trainer.fit(setting.module(), endless(setting.pairs))
    most = peak()
    rows: list[Row] = []
    took = {name: median(values) for name, values in phases.seconds.items()}
    for name, count in [*phases.operations.items(), ("step", sum(phases.operations.values()))]:
        spent = took.get(name, sum(took.values()))
        rows.append(
            {"phase": name, "billion operations": count / 1e9, "least, CPU s": count / most, "took, CPU s": spent,
             "took / least": spent * most / count}
        )  # fmt: skip
    return rows


def main(
    model: Literal["tiny", "130m"] = "tiny",
    pairs: int = 2,
    group: int = 8,
    prompt: int = 512,
    reply: int = 128,
    image_tokens: int = 256,
    repeats: int = 5,
    size: Literal["full", "smallest"] = "full",
    out: Path | None = None,
) -> None:
    """Measure, and print the table as Markdown.

    Args:
        model: Which Qwen3-VL.
        pairs: Pairs in a step; each has two prompts.
        group: Rollouts a prompt (G).
        prompt: Tokens of a prompt.
        reply: Tokens of a reply.
        image_tokens: Tokens of a prompt's picture, a square number.
        repeats: Steps that are timed.
        size: `smallest` times one step of short replies.
        out: Folder for the results; None only prints.
    """
    torch.set_num_threads(1)
    if size == "smallest":
        pairs, group, prompt, reply, image_tokens, repeats = 1, 2, 64, 4, 9, 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = measure(Setting(write(model, folder), folder, pairs, group, prompt, reply, image_tokens), repeats)
    asked = {"prompts": 2 * pairs, "G": group, "prompt": prompt, "reply": reply, "image_tokens": image_tokens}
    title = "egrl_bound" if model == "tiny" else f"egrl_bound_{model}"
    report(title, rows, out, model=model, **asked, repeats=repeats)


if __name__ == "__main__":
    auto_cli(main)
