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
from embedrl.errors import ConfigError
from embedrl.training.model_card import write_card
from embedrl.utils.atomic_files import replacing_folder
from embedrl.utils.console import tell

_FOLDERS = {"1_Pooling", "1_Dense", "2_Normalize", "3_MultiVectorMask"}  # those of sentence-transformers


class ExportModel(Callback):
    """When `fit` ends, writes a Hugging Face checkpoint, `recipe.yaml`, `scores.json` and a model card.

    The folder is what `embedrl export` writes of the model in training: the Embedder's backbone, or the Reasoner. Of
    experts (`lora.experts`), which cannot be merged, it is the adapter alone.

    Args:
        out: The folder to write; a model that is there is replaced when the new one is whole.
        half: Store the weights in half precision (half the size); they load as float32, which `config.json` names.
    """

    def __init__(self, out: str, half: bool = False) -> None:
        self.out, self.half = Path(out), half

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the start time.

        Raises:
            ConfigError: If the folder holds something else than a model.
        """
        _check_replaceable(self.out)
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
        with replacing_folder(self.out) as part:
            self._write(part, model, trainer, Path(log_dir or "") / "config.yaml")

    def _write(self, out: Path, model: Any, trainer: Trainer, config: Path) -> None:
        module: Any = trainer.lightning_module
        model.export(out, merge=model.merges)
        if model.merges:
            module.describe_export(out)
        else:
            tell(f"{self.out}: the experts and routers alone, which cannot be merged: embedrl loads them on their base")
        for file in out.glob("*.safetensors") if self.half else ():
            halves = {name: tensor.half() for name, tensor in load_file(file).items()}
            save_file(halves, file, metadata={"format": "pt"})
        if config.is_file():
            shutil.copyfile(config, out / "recipe.yaml")
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
        (out / "scores.json").write_text(json.dumps(facts, indent=1) + "\n")
        figures = {f"held out, {kind}: {name}": x for kind, row in scores.items() for name, x in row.items()}
        write_card(out, model, self.out.name, {"optimizer steps": trainer.global_step, **figures})


def _check_replaceable(out: Path) -> None:
    """Refuse a folder whose content must not go: that of runs, or anything but a model."""
    names = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    folders = {entry.name for entry in out.iterdir() if entry.is_dir()} if names else set()
    model = names & {"config.json", "open_clip_config.json", "adapter_config.json", "scores.json"}
    if (out.exists() and not out.is_dir()) or (names and not model) or folders - _FOLDERS:
        raise ConfigError(
            f"ExportModel.out {out}: holds something else than a model, which would be lost; give a new one"
        )
