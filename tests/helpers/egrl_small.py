"""What makes `configs/quickstart/egrl.yaml` small enough for a test."""

from pathlib import Path
from typing import Any

from small_sources import MIX, VAL

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = str(CONFIGS / "parts/backbone/tiny.yaml")
TASKS = [{"class_path": "embedrl.data.world.WorldTasks", "init_args": {"split": "val", "size": 2, "families": ["vqa"]}}]
FROZEN = {
    "class_path": "embedrl.FrozenEmbedder",
    "init_args": {"backbone": TINY},
}
RETRIEVAL: dict[str, Any] = {
    "class_path": "embedrl.training.ReasonedRetrieval",
    "init_args": {"tasks": TASKS, "embedder": FROZEN, "style": "brief", "max_new_tokens": 3},
}
TRAINER = {
    "val_check_interval": 3,
    "log_every_n_steps": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "logger": None,
    "callbacks": [RETRIEVAL],
}
MODEL = {
    "generator": {"init_args": {"path": "embedrl:tiny", "lora": {"r": 4, "alpha": 8}}},
    "embedder": FROZEN,
    "rewards": str(CONFIGS / "parts/reward/paper.yaml"),
    "group_size": 3,
    "rollout": {"max_new_tokens": 6, "max_sequences": 3},
    "max_new_tokens": 3,
    "inner_epochs": 2,
}
DATA = {
    "batch_size": 2,
    "mix": MIX,
    "block_size": 1,
    "steps_per_epoch": 4,
    "val": VAL,
}


def overlay(trainer: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """The overlay, with other settings of the trainer and other sections."""
    return {"trainer": TRAINER | (trainer or {}), "model": {"init_args": MODEL}, "data": {"init_args": DATA}, **more}
