"""Exports the model of a finished training run: weights, recipe and scores in one folder."""

from __future__ import annotations

import json
import shutil
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import load_file, save_file
from torch.distributed.fsdp import FSDPModule

from embedrl.distributed.fsdp2 import whole_copy


class ExportModel(Callback):
    """When `fit` ends, writes a Hugging Face checkpoint, `recipe.yaml` and `scores.json`.

    The folder is what `embedrl export` writes of the model in training: the Embedder's backbone, or the Reasoner.

    Args:
        out: The folder to write; existing files are overwritten.
        half: Store the weights in half precision (half the size); they load as float32, which `config.json` names.
    """

    def __init__(self, out: str, half: bool = False) -> None:
        self.out, self.half = Path(out), half

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the start time."""
        self._clock = time.monotonic()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the folder."""
        log_dir = trainer.log_dir  # on every process: rank 0 broadcasts it
        module: Any = pl_module
        model = module.trained_model
        if isinstance(model, FSDPModule):
            model = whole_copy(model)  # type: ignore[arg-type]  # by all ranks together
        if not trainer.is_global_zero:
            return
        model.export(self.out)
        for file in self.out.glob("*.safetensors") if self.half else ():
            halves = {name: tensor.half() for name, tensor in load_file(file).items()}
            save_file(halves, file, metadata={"format": "pt"})
        config = Path(log_dir or "") / "config.yaml"
        if log_dir and config.is_file():
            shutil.copyfile(config, self.out / "recipe.yaml")
        scores: dict[str, dict[str, float]] = defaultdict(dict)
        for name, value in sorted(trainer.callback_metrics.items()):
            stage, _, rest = name.partition("/")
            if stage == "val":
                kind, _, metric = rest.rpartition("/")
                scores[kind or "mean"][metric] = round(float(value), 4)
        facts = {
            "steps": trainer.global_step,
            "seed": module.seed,
            "wall_seconds": round(time.monotonic() - self._clock),
            "device": str(trainer.strategy.root_device),
            "threads": torch.get_num_threads(),
            "held_out": dict(scores),
        }
        (self.out / "scores.json").write_text(json.dumps(facts, indent=1) + "\n")
