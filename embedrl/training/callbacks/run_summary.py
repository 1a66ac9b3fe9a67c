"""What a run prints first and last: what it trains, what was reached, where the results are, and what comes next."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from embedrl.training.callbacks.export_model import ExportModel
from embedrl.training.callbacks.provenance import device_name
from embedrl.training.progress import duration, figure
from embedrl.training.score_tables import by_task, mean_table, task_tables
from embedrl.utils.console import escaped


class RunSummary(Callback):
    """Prints a line when `fit` starts and a summary when it ends; the scores when `validate` or `test` ends.

    The first validation's scores are kept in the checkpoints: the summary of a resumed run begins with them.

    Args:
        next_command: The command to name at the end of `fit`, such as the next training.
    """

    def __init__(self, next_command: str | None = None) -> None:
        self.next_command = next_command
        self._validations: dict[int, dict[str, float]] = {}

    def state_dict(self) -> dict[str, Any]:
        """The first validation's means, by the step."""
        return {"first": dict(list(self._validations.items())[:1])}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the first validation of a checkpoint."""
        self._validations = dict(state_dict["first"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; say what is trained where."""
        self._clock = time.monotonic()
        log_dir = trainer.log_dir  # every process asks: rank 0 tells the others
        if not trainer.is_global_zero or trainer.barebones:
            return
        every = sum(parameter.numel() for parameter in pl_module.parameters())
        trained = sum(parameter.numel() for parameter in pl_module.parameters() if parameter.requires_grad)
        place = device_name(trainer) + (f" ({trainer.world_size} processes)" if trainer.world_size > 1 else "")
        where = f", run folder {_shown(Path(log_dir))}" if log_dir else ""
        _say([f"{type(pl_module).__name__} on {place}: {_count(trained)} of {_count(every)} parameters train{where}"])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the means of the first validation and of the last one; those of `embedrl validate` are printed."""
        if trainer.state.fn == "validate":
            self._say_scores(trainer, "val")
        elif not trainer.sanity_checking:
            means, _ = by_task(_scores(trainer), "val")
            if means:
                self._validations = dict([*list(self._validations.items())[:1], (trainer.global_step, means)])

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the scores."""
        self._say_scores(trainer, "test")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the summary."""
        log_dir = trainer.log_dir  # every process asks: rank 0 tells the others
        if trainer.is_global_zero and log_dir and not trainer.barebones:
            _say(self.lines(trainer, Path(log_dir)))

    def lines(self, trainer: Trainer, log_dir: Path) -> list[str]:
        """The summary of a training."""
        folder, took = _shown(log_dir), duration(time.monotonic() - self._clock)
        lines = ["", f"Done: {trainer.global_step} steps in {took}, run folder {folder}"]
        if self._validations:
            lines += mean_table({f"step {step}": means for step, means in self._validations.items()})
        lines += task_tables(by_task(_scores(trainer), "val")[1], "last validation")
        lines.append(f"  curves       tensorboard --logdir {_shown(Path(trainer.default_root_dir))}")
        pictures = sorted((log_dir / "retrieval_grid").glob("*.png"))
        if pictures:
            lines.append(f"  grid         {folder}/retrieval_grid/ ({len(pictures)} pictures, also under IMAGES)")
        samples = sorted((log_dir / "reasoning_samples").glob("step_*"))
        if samples:
            first, last = (int(path.name.removeprefix("step_")) for path in (samples[0], samples[-1]))
            steps = f"step {first}" if first == last else f"steps {first} to {last}"
            lines.append(f"  samples      {folder}/reasoning_samples/ ({steps}; also under IMAGES and TEXT)")
        checkpoints = _checkpoints(trainer)
        lines += [f"  checkpoint   {_shown(path)}{note}" for path, note in checkpoints.items()]
        exported = [c.out for c in trainer.callbacks if isinstance(c, ExportModel)]  # type: ignore[attr-defined]
        lines += [f"  model        {_shown(path)}" for path in exported]
        lines.append(f"  provenance   {folder}/provenance.json, config.yaml")
        if checkpoints:
            best = _shown(next(iter(checkpoints)))
            tests = getattr(getattr(trainer, "datamodule", None), "test", None)
            title, command = ("test", "embedrl test") if tests else ("score again", "embedrl validate")
            lines += _command(title, f"{command} --config {folder}/config.yaml", f"--ckpt_path {best}")
            if not exported:
                lines += _command("export", f"embedrl export --checkpoint {best}", f"--out {folder}/model")
        if self.next_command:
            lines.append(f"  next         {self.next_command}")
        return lines

    def _say_scores(self, trainer: Trainer, stage: str) -> None:
        if trainer.is_global_zero and not trainer.barebones:
            means, tasks = by_task(_scores(trainer), stage)
            title = {"val": "validation", "test": "test"}[stage]
            _say([*(mean_table({title: means}) if means else []), *task_tables(tasks, title)])


def _say(lines: list[str]) -> None:
    sys.stdout.write(escaped("\n".join(lines) + "\n"))
    sys.stdout.flush()


def _scores(trainer: Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def _command(title: str, begin: str, rest: str) -> list[str]:
    """A command over two lines of a shell, as its paths are long."""
    return [f"  {title:<11}  {begin} \\", f"                 {rest}"]


def _count(parameters: int) -> str:
    """A number of parameters in words."""
    return f"{parameters / 1e9:.2f} G" if parameters >= 1e9 else f"{parameters / 1e6:.2f} M"


def _checkpoints(trainer: Trainer) -> dict[Path, str]:
    """The best checkpoint with what it was chosen by, then the last one: those that exist."""
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    best = {
        c.best_model_path: f" ({c.monitor} {figure(float(c.best_model_score))})"
        for c in callbacks
        if c.monitor and c.best_model_score is not None
    }
    last = {c.last_model_path: "" for c in callbacks if c.last_model_path not in best}
    return {Path(name): note for name, note in (best | last).items() if name and Path(name).exists()}


def _shown(path: Path) -> str:
    """Relative to the working directory, if it lies below."""
    resolved = path.resolve()
    return str(resolved.relative_to(Path.cwd())) if resolved.is_relative_to(Path.cwd()) else str(resolved)
