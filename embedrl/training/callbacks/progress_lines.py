"""Progress for a file: a line now and then instead of a bar."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from embedrl.data.collate import ContrastiveBatch
from embedrl.data.datamodules.egrl import PairBatch
from embedrl.data.datamodules.verifiable_rl import PromptBatch
from embedrl.data.sft_batches import LessonBatch
from embedrl.training.progress import duration, figure, total_steps
from embedrl.training.score_tables import metric_rank

MAIN = 5
"""Figures in the line of a validation; the table at the end has all of them."""
FIRST_WAIT = 2.0
"""Seconds between the first line and the second; each wait is twice the one before, up to `ProgressLines.longest`."""


class ProgressLines(ProgressBar):
    """Prints lines such as `step 40/200  loss 3.112  12.3 pairs/s  6 min 10 s left`, and one for each validation.

    The first step has a line, the last one, and in between there is one every 2, 4, 8, ... seconds, up to `longest`.
    Only rank 0 prints. The time that is left counts validations in as often as they have been so far.

    Args:
        longest: Seconds between two lines of a long run.
    """

    def __init__(self, longest: float = 30.0) -> None:
        super().__init__()
        self.longest = longest
        self._enabled = True
        self._begun = 0.0  # when the first step of this start began; 0: not yet
        self._restart()

    def enable(self) -> None:
        """Print."""
        self._enabled = True

    def disable(self) -> None:
        """Print nothing."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self._begun = 0.0
        self._restart()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock with the first step."""
        if not self._begun:
            self._begun = self._since = time.monotonic()
            self._first = self._shown = self._step = trainer.global_step
            self._items, self._scoring, self._total = 0, 0.0, total_steps(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line if it is time for one."""
        size, unit = _items(batch, pl_module)
        self._items += size * trainer.world_size
        step = trainer.global_step
        if step == self._step:  # the gradients of several batches make a step
            return
        self._step = step
        if self._enabled and (self._due() or step == self._total):
            self._say(self._step_line(trainer, step, unit))
            self._items, self._shown, self._since, self._scoring = 0, step, time.monotonic(), 0.0

    def _step_line(self, trainer: Trainer, step: int, unit: str) -> str:
        now = time.monotonic()
        parts = [self._place(step)]
        parts += [f"{name} {figure(value)}" for name, value in _figures(trainer, "train").items()]
        items, unit = (self._items, unit) if unit else (step - self._shown, "steps")
        parts.append(f"{items / max(now - self._since - self._scoring, 1e-9):.3g} {unit}/s")
        if self._total and step < self._total:
            left = (now - self._begun) / (step - self._first) * (self._total - step)
            parts.append(f"{duration(left)} left")
        return "  ".join(parts)

    def _place(self, step: int) -> str:
        return f"step {step}/{self._total}" if self._total else f"step {step}"

    # ---------------------------------------------------------------- scoring

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of a validation."""
        self._scored, self._scoring_began = 0, time.monotonic()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As `on_validation_start`."""
        self.on_validation_start(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As `on_validation_start`."""
        self.on_validation_start(trainer, pl_module)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Print a line if it is time for one."""
        if not trainer.sanity_checking:
            self._batch(trainer, "validation", trainer.num_val_batches)

    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """As `on_validation_batch_end`."""
        self._batch(trainer, "test", trainer.num_test_batches)

    def on_predict_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """As `on_validation_batch_end`."""
        self._batch(trainer, "predict", trainer.num_predict_batches)

    def _batch(self, trainer: Trainer, stage: str, sizes: list[int | float]) -> None:
        self._scored += 1
        if self._enabled and self._due():
            place = f"step {trainer.global_step}  " if trainer.state.fn == "fit" else ""
            self._say(f"{place}{stage}: batch {self._scored}/{sum(sizes)}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print a validation's main figures; those of `embedrl validate` come in a table at its end."""
        if not self._enabled or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        took = time.monotonic() - self._scoring_began
        if self._begun:
            self._scoring += took
        known = _figures(trainer, "val")
        figures = [f"{name} {figure(known[name])}" for name in sorted(known, key=metric_rank)[:MAIN]]
        self._say("  ".join([f"step {trainer.global_step}  validation ({duration(took)})", *figures]))

    # ---------------------------------------------------------------- lines

    def _restart(self) -> None:
        self._next, self._wait = 0.0, FIRST_WAIT

    def _due(self) -> bool:
        """Whether it is time for a line; asked only where lines are printed, as a yes sets the time of the next one."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next, self._wait = now + self._wait, min(2 * self._wait, self.longest)
        return True

    def _say(self, line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _items(batch: Any, module: Any) -> tuple[int, str]:
    """How much of what one process trains on in a batch; 0 and no name if it is not one of ours."""
    if isinstance(batch, ContrastiveBatch):
        return batch.num_pairs, "pairs"
    if isinstance(batch, LessonBatch):
        return len(batch.lessons), "lessons"
    if isinstance(batch, PairBatch):
        return 2 * len(batch.pairs) * module.group_size, "rollouts"
    if isinstance(batch, PromptBatch):
        return len(batch.lessons) * module.group_size, "rollouts"
    return 0, ""


def _figures(trainer: Trainer, stage: str) -> dict[str, float]:
    """What the module marks for the progress bar, and the loss; the names without the stage."""
    known: dict[str, Any] = {name: value for name, value in trainer.callback_metrics.items() if name.endswith("/loss")}
    known |= trainer.progress_bar_metrics
    scored = ("val/", "test/")
    return {
        name.partition("/")[2] or name: float(value)
        for name, value in known.items()
        if (name.startswith(f"{stage}/") if stage != "train" else not name.startswith(scored))
    }
