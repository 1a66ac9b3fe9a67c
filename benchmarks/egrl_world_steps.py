"""The step model of `egrl_world.py`'s searches: rollouts of a policy, and a model that learns which of them succeed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from command import embedrl
from egrl_world_measure import CONFIGS

from embedrl.inference.step_model import StepModel
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner

PAIRS = 400  # a family, as the recipe has them
MODEL = "runs/world_step_model/model"


def train_step_model(folder: Path, pairs: int, rolling: Sequence[str], training: Sequence[str]) -> StepModel:
    """Train the step model of a policy in a folder, unless that is done.

    Args:
        folder: Where the policy lies as the quickstart leaves it, and its Embedder.
        pairs: How many of each family are rolled out.
        rolling: More flags of the rollouts.
        training: More flags of the training.

    Returns:
        The step model, not built.
    """
    if not (folder / MODEL).exists():
        mix = yaml.safe_load((CONFIGS / "parts/mix/world_steps.yaml").read_text())
        for row in mix:
            row["source"]["init_args"]["size"] = pairs
        (folder / "mix.yaml").write_text(yaml.safe_dump(mix))
        overlay = yaml.safe_load((CONFIGS / "parts/step_rollouts_world.yaml").read_text())
        [callback] = overlay["trainer"]["callbacks"]
        callback["init_args"] |= {"mix": "mix.yaml", "resume": True}
        (folder / "rollouts.yaml").write_text(yaml.safe_dump(overlay))
        quiet = ["--trainer.enable_progress_bar", "false"]
        recipe = ["--config", str(CONFIGS / "quickstart/egrl.yaml"), "--config", "rollouts.yaml"]
        embedrl("validate", *recipe, *quiet, *rolling, folder=folder)
        recipe = ["--config", str(CONFIGS / "world/step_model.yaml"), "--data.init_args.val", "null"]
        pairs_of = "--data.init_args.train.init_args.mix=mix.yaml"
        embedrl("fit", *recipe, *quiet, pairs_of, *training, folder=folder)
    return StepModel(QwenVLReasoner(str(folder / MODEL), max_length=1024), style="brief")
