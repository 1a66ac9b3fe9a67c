"""The three trainings at their smallest, through the command line in this process."""

import contextlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from small_sources import world

from embedrl.cli import main

BACKBONE = {
    "class_path": "embedrl.QwenVLBackbone",
    "init_args": {
        "path": "embedrl:tiny",
        "lora": {"r": 2, "alpha": 4, "dropout": 0.1, "scope": "language"},
        "image_pixels": {"min_pixels": 1024, "max_pixels": 1024},
        "max_length": 512,
    },
}
GENERATOR = {
    "class_path": "embedrl.QwenVLReasoner",
    "init_args": {
        "path": "embedrl:tiny",
        "lora": {"r": 2, "alpha": 4, "dropout": 0.1, "scope": "language"},
        "image_pixels": {"min_pixels": 1024, "max_pixels": 1024},
        "max_length": 512,
    },
}
FROZEN = {**BACKBONE, "init_args": {k: v for k, v in BACKBONE["init_args"].items() if k != "lora"}}
OPTIMIZER = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1.0e-2, "weight_decay": 0.01}}
TASKS = [{"class_path": "embedrl.data.world.WorldTasks", "init_args": {"split": "val", "size": 2, "families": ["vqa"]}}]
VAL = {
    "class_path": "embedrl.data.TCoTLessons",
    "init_args": {"sources": [world("vqa", split="val")], "style": "brief", "limit": 1},
}
TRAIN = {"class_path": "embedrl.data.TCoTLessons", "init_args": {"sources": [world("vqa", size=8)], "style": "brief"}}
MIX = [{"source": world("vqa", size=8)}]
TRAINER: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "max_steps": 2,
    "max_epochs": -1,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
    "enable_progress_bar": False,
}
TRAININGS: dict[str, dict[str, Any]] = {
    "Embedder": {
        "model": {
            "class_path": "embedrl.EmbedderModule",
            "init_args": {
                "backbone": BACKBONE,
                "loss": {"class_path": "embedrl.losses.InfoNCE", "init_args": {"temperature": 0.05}},
                "optimizer": OPTIMIZER,
                "schedule": "constant",
            },
        },
        "data": {
            "class_path": "embedrl.EmbedderDataModule",
            "init_args": {"mix": MIX, "batch_size": 2, "sub_batch_size": 2, "micro_batch_size": 2, "val": TASKS},
        },
    },
    "Reasoner": {
        "model": {
            "class_path": "embedrl.ReasonerModule",
            "init_args": {
                "generator": GENERATOR,
                "optimizer": OPTIMIZER,
                "schedule": "constant",
                "max_new_tokens": 2,
            },
        },
        "data": {
            "class_path": "embedrl.ReasonerDataModule",
            "init_args": {"train": TRAIN, "val": VAL, "batch_size": 2, "micro_batch_size": 2},
        },
    },
    "EG-RL": {
        "model": {
            "class_path": "embedrl.EGRLModule",
            "init_args": {
                "generator": GENERATOR,
                "embedder": {"class_path": "embedrl.FrozenEmbedder", "init_args": {"backbone": FROZEN}},
                "rewards": [
                    {"reward": {"class_path": "embedrl.rl.OutcomeReward"}, "weight": 1.0},
                ],
                "loss": {"class_path": "embedrl.rl.GRPOLoss"},
                "optimizer": OPTIMIZER,
                "group_size": 2,
                "rollout": {"max_new_tokens": 3},
                "style": "brief",
                "max_new_tokens": 2,
            },
        },
        "data": {"class_path": "embedrl.EGRLDataModule", "init_args": {"mix": MIX, "val": VAL, "batch_size": 2}},
    },
}
"""Each a whole recipe, with LoRA and dropout, so that a seed and a number type show."""


class Run(NamedTuple):
    """What the command line did.

    Attributes:
        code: The exit code.
        out: What it printed.
        err: What it said on stderr.
        folder: `trainer.default_root_dir`.
    """

    code: int
    out: str
    err: str
    folder: Path

    @property
    def line(self) -> str:
        """The error line."""
        return next((text for text in self.err.splitlines() if text.startswith("embedrl: error: ")), "")


def write(training: str, folder: Path, **more: Any) -> Path:
    """The recipe of a training as a file, other sections added."""
    path = folder / f"{training}.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    trainer = TRAINER | {"default_root_dir": str(folder / "runs")} | more.pop("trainer", {})
    path.write_text(yaml.safe_dump({"trainer": trainer, **TRAININGS[training], **more}, sort_keys=False))
    return path


def fit(training: str, folder: Path, *words: str, command: str = "fit", **more: Any) -> Run:
    """Run a training in this process.

    Args:
        training: Its name in `TRAININGS`.
        folder: Where the recipe and the run go.
        words: More of the command line.
        command: `fit`, or another one of the trainings.
        more: More sections of the recipe.
    """
    path = write(training, folder, **more)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([command, "--config", str(path), *words])
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Run(code, out.getvalue(), err.getvalue(), folder / "runs")
