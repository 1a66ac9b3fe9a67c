"""A recipe's training as the benchmarks start it: one thread, quiet, and not twice."""

from __future__ import annotations

import json
from pathlib import Path

from command import embedrl

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def fit(recipe: str, run: Path, model: Path, **values: object) -> str:
    """Train a recipe, unless its model is there; a training that was stopped goes on from its last checkpoint.

    Args:
        recipe: Its path below `configs`.
        run: Where checkpoints and logs go.
        model: Where its model goes.
        values: More of its settings, with `__` for the dots of their names; None leaves one as it is.

    Returns:
        The folder of the model.
    """
    if not model.exists():
        export = [{"class_path": "embedrl.training.ExportModel", "init_args": {"out": str(model)}}]
        settings: dict[str, object] = {
            "trainer.limit_val_batches": 0,
            "trainer.enable_progress_bar": "false",
            "trainer.default_root_dir": run,
            "trainer.callbacks": json.dumps(export),
            **{name.replace("__", "."): value for name, value in values.items() if value is not None},
        }
        if [*run.rglob("last.ckpt")]:
            settings["ckpt_path"] = "last"
        embedrl("fit", "--config", str(CONFIGS / recipe), *(f"--{name}={value}" for name, value in settings.items()))
    return str(model)
