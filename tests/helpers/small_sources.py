"""Few sources for recipes that name many: every mention of one is parsed several times a run, which takes seconds."""

from typing import Any


def world(family: str, **options: Any) -> dict[str, Any]:
    """A source of the built-in world."""
    return {"class_path": "embedrl.data.world.WorldSource", "init_args": {"family": family, **options}}


MIX = [{"source": world(family, teacher="none")} for family in ("t2i", "moment")]
"""For EG-RL: texts, pictures and videos; hardly ever two pairs with the same target, from which nothing is learned."""
VAL = {"init_args": {"limit": 1, "sources": [world("vqa", split="val")]}}
"""Laid over `TCoTLessons` of validation."""
LESSONS = {
    "train": {
        "class_path": "embedrl.data.TCoTLessons",
        "init_args": {"style": "brief", "sources": [world("vqa", teacher="annotator")]},
    },
    "val": VAL,
}
"""Laid over the data of the Reasoner's quickstart."""
