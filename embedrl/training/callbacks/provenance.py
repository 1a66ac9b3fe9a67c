"""The provenance of a run, written beside its results as `config.yaml` and `provenance.json`."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from embedrl.training.resume import Change, trained_with
from embedrl.utils.atomic_files import replacing
from embedrl.utils.versions import environment, read_starts


class SaveRun(SaveConfigCallback):
    """Saves the configuration and the provenance in the run folder.

    `provenance.json` holds `{"starts": [...]}`: a run that was killed and resumed has several, each with its
    configuration, so that nothing is lost when `config.yaml` is written again.

    Args:
        resumed_from: The checkpoint that this start continues.
        changed: What this start changes of what the checkpoint was trained with.
        kwargs: Passed on to `SaveConfigCallback`.
    """

    def __init__(
        self, *args: Any, resumed_from: str | None = None, changed: Sequence[Change] = (), **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._resumed_from, self._changed = resumed_from, changed
        self._trained_with: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """What the checkpoint was trained with, which a run that goes on from it is compared with."""
        return {"trained_with": self._trained_with}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save on rank 0, as Lightning does; every process reads the folder, since rank 0 broadcasts it."""
        self._path = Path(trainer.log_dir or trainer.default_root_dir) / "provenance.json"
        self._config = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        self._trained_with = trained_with(self._config)
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Add this start to `provenance.json`."""
        self._clock = time.monotonic()
        self._starts = read_starts(self._path)
        self._starts.append(
            {
                **environment(),
                "stage": stage,
                "resumed_from": self._resumed_from,
                "changed": {change.key: [change.before, change.now] for change in self._changed},
                "seed": self._config.get("seed_everything"),
                "device": device_name(trainer),
                "processes": trainer.world_size,
                "threads": torch.get_num_threads(),
                "config": self._config,
            }
        )
        self._write()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Add the wall time, the last step, and whether the run finished."""
        if trainer.is_global_zero and self.already_saved:
            wall = round(time.monotonic() - self._clock, 1)
            self._starts[-1].update(
                wall_seconds=wall, global_step=trainer.global_step, finished=not trainer.interrupted
            )
            self._write()

    def _write(self) -> None:
        with replacing(self._path) as part:
            part.write_text(json.dumps({"starts": self._starts}, indent=1))


def device_name(trainer: Trainer) -> str:
    """Name of the device."""
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"
