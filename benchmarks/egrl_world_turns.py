"""Embedder and Reasoner in turns for `egrl_world.py`: stages of `configs/world/alternation.yaml` behind EG-RL."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from command import embedrl
from egrl_world_measure import CONFIGS, link


def take_turns(folder: Path, embedder: Path, policy: Path, last: Literal["embedder_1", "egrl_2"]) -> Path:
    """Run the stages behind the first turn of EG-RL, unless that is done.

    Args:
        folder: Where they run.
        embedder: The Embedder that rewarded the first turn.
        policy: What the first turn left behind.
        last: The last stage to run: the Embedder trained on with the policy's T-CoTs, or EG-RL once more.

    Returns:
        Where the models of the stages are, by name.
    """
    runs = folder / "runs/alternation"
    if not (runs / last / "model").exists():
        link(runs / "embedder_0/model", embedder)
        link(runs / "egrl_1/model", policy)
        link(folder / "configs", CONFIGS)
        recipe = yaml.safe_load((CONFIGS / "world/alternation.yaml").read_text())
        names = [stage["name"] for stage in recipe["stages"]]
        recipe["stages"] = recipe["stages"][names.index("egrl_1") + 1 : names.index(last) + 1]
        (folder / "stages.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        embedrl("stages", "--config", "stages.yaml", folder=folder)
    return runs
