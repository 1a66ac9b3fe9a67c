"""What a run prints last: where its curves, pictures and checkpoints are, and how to look at them."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from embedrl.training.callbacks.export_model import ExportModel
from embedrl.utils.console import escaped


class RunSummary(Callback):
    """Prints a short summary when `fit` ends."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._clock = time.monotonic()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print."""
        log_dir = trainer.log_dir  # every process asks: rank 0 tells the others
        if trainer.is_global_zero and log_dir and not trainer.barebones:
            sys.stdout.write(escaped(self.text(trainer, Path(log_dir)) + "\n"))
            sys.stdout.flush()

    def text(self, trainer: Trainer, log_dir: Path) -> str:
        """The summary."""
        folder = _shown(log_dir)
        minutes, seconds = divmod(round(time.monotonic() - self._clock), 60)
        lines = [f"\nDone: {trainer.global_step} steps in {minutes} min {seconds:02d} s, run folder {folder}"]
        lines += _table({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")})
        lines.append(f"  curves       tensorboard --logdir {_shown(Path(trainer.default_root_dir))}")
        pictures = sorted((log_dir / "retrieval_grid").glob("*.png"))
        if pictures:
            lines.append(f"  grid         {folder}/retrieval_grid/ ({len(pictures)} pictures, also under IMAGES)")
        samples = sorted((log_dir / "reasoning_samples").glob("step_*"))
        if samples:
            shown = ", ".join(dict.fromkeys((samples[0].name, samples[-1].name)))
            lines.append(f"  samples      {folder}/reasoning_samples/ ({shown}; also under IMAGES and TEXT)")
        checkpoints = _checkpoints(trainer)
        lines += [f"  checkpoint   {_shown(path)}" for path in checkpoints]
        shipped = [c.out for c in trainer.callbacks if isinstance(c, ExportModel)]  # type: ignore[attr-defined]
        lines += [f"  model        {_shown(path)}" for path in shipped]
        lines.append(f"  provenance   {folder}/provenance.json, {folder}/config.yaml")
        if checkpoints:
            lines.append(
                f"  score again  embedrl validate --config {folder}/config.yaml --ckpt_path {_shown(checkpoints[0])}"
            )
        return "\n".join(lines)


def _table(scores: dict[str, float]) -> list[str]:
    """`val/<task>/<metric>` as a row a task and a column a metric; `val/<metric>` is the row `mean`."""
    if not scores:
        return []
    parts = {name: name.split("/", 1)[1].rpartition("/") for name in scores}
    columns = sorted({metric for _, _, metric in parts.values()})
    rows = sorted({task for task, _, _ in parts.values()}, key=lambda task: (task == "", task))
    width = max(len("last validation"), *map(len, rows))
    lines = [f"  {'last validation':<{width}}" + "".join(f"  {column:>8}" for column in columns)]
    for task in rows:
        found = [scores.get(f"val/{task}/{column}" if task else f"val/{column}") for column in columns]
        cells = "".join(
            f"  {'' if value is None else format(value, '.3f'):>{max(8, len(column))}}"
            for value, column in zip(found, columns, strict=True)
        )
        lines.append(f"  {task or 'mean':<{width}}{cells}")
    return lines


def _checkpoints(trainer: Trainer) -> list[Path]:
    """The best checkpoint, then the last one: those that exist."""
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    names = [c.best_model_path for c in callbacks if c.monitor] + [c.last_model_path for c in callbacks]
    return [Path(name) for name in dict.fromkeys(names) if name and Path(name).exists()]


def _shown(path: Path) -> str:
    """Relative to where the user stands, if it lies below."""
    resolved = path.resolve()
    return str(resolved.relative_to(Path.cwd())) if resolved.is_relative_to(Path.cwd()) else str(resolved)
