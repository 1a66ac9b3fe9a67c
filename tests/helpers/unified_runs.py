"""Unified training at its smallest: recipes for the command line, and sides with reasoning."""

from pathlib import Path

import yaml
from small_sources import world
from tiny_runs import OPTIMIZER, TASKS, TRAINER

from embedrl.data.render import RenderOptions, render
from embedrl.data.world import WorldSource

PRINTED = RenderOptions(cues="printed")


def chats(options=RenderOptions(), families=("vqa", "t2i", "video_qa")):  # noqa: B008 (frozen)
    """The queries of one pair of each family, then their targets, as chats: texts, pictures and a video."""
    pairs = [WorldSource(family=family, teacher="perfect")[0] for family in families]
    return [render(side, options) for side in [*(p.query for p in pairs), *(p.target for p in pairs)]]


def info_nce(vector):
    loss = {"class_path": "embedrl.losses.InfoNCE", "init_args": {"temperature": 0.05}}
    return {"loss": {"class_path": "embedrl.losses.VectorLoss", "init_args": {"vector": vector, "loss": loss}}}


def reasoning(role):
    return {"loss": {"class_path": "embedrl.losses.ReasoningLoss", "init_args": {"role": role}}}


UME = [info_nce("disc"), info_nce("gen"), reasoning("query"), reasoning("target")]
BACKBONE = {
    "class_path": "embedrl.QwenVLUnified",
    "init_args": {
        "path": "embedrl:tiny",
        "layout": {"request": "evidence :"},
        "lora": {"r": 2, "alpha": 4, "dropout": 0.1, "scope": "language"},
        "image_pixels": {"min_pixels": 1024, "max_pixels": 1024},
        "max_length": 512,
    },
}


def recipe(folder: Path, trainer=None, model=None, data=None, backbone=None, **more) -> Path:
    """A recipe as a file."""
    own = {**BACKBONE, "init_args": BACKBONE["init_args"] | (backbone or {})}
    content = {
        "trainer": TRAINER | {"default_root_dir": str(folder / "runs")} | (trainer or {}),
        "model": {
            "class_path": "embedrl.UnifiedEmbedderModule",
            "init_args": {"backbone": own, "losses": UME, "optimizer": OPTIMIZER, "schedule": "constant"}
            | (model or {}),
        },
        "data": {
            "class_path": "embedrl.UnifiedDataModule",
            "init_args": {
                "mix": [{"source": world("composed", negatives=1, teacher="perfect", size=16)}],
                "batch_size": 4,
                "sub_batch_size": 4,
                "micro_batch_size": 4,
                "max_negatives": 1,
                "val": TASKS,
            }
            | (data or {}),
        },
        **more,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
