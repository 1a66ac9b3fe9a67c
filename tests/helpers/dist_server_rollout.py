"""Run by test_server_rollout_distributed.py once per rank: EG-RL with a rollout server under FSDP2.

python dist_server_rollout.py OUT URL FOLDER
"""

import functools
import os
import sys
from pathlib import Path

import torch
from dist_egrl import Pairs
from lightning import Trainer
from policy_helpers import policy_model

from embedrl.distributed.fsdp2 import FSDP2Strategy
from embedrl.errors import EndpointError
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.rl.grpo_loss import GRPOLoss
from embedrl.rl.module import EGRLModule
from embedrl.rl.policy import PolicyOptions
from embedrl.rl.rewards.combine import RewardRow
from embedrl.rl.rewards.outcome import OutcomeReward
from embedrl.rl.rollout import RolloutOptions
from embedrl.rl.vllm.engine import ServerRollout

FAILING = 2
"""Rollouts a prompt of the run in which the server refuses a prompt of rank 1."""


def run(out, url, folder, group_size=3):
    """Train two steps of four pairs, two a rank."""
    module = EGRLModule(
        generator=policy_model(path=folder, scope="all-linear"),
        embedder=FrozenEmbedder(QwenVLBackbone("embedrl:tiny")),
        rewards=[RewardRow(OutcomeReward(), 1.0)],
        optimizer=functools.partial(torch.optim.AdamW, lr=1e-2),
        loss=GRPOLoss(importance_cap=2.0),
        group_size=group_size,
        rollout=RolloutOptions(max_new_tokens=4),
        policy=PolicyOptions(max_tokens=300),
        style="brief",
        engine=ServerRollout(url, str(out / "adapters"), retries=0, max_mismatch=1e-3),
    )
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy=FSDP2Strategy(), max_steps=2, max_epochs=-1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=Pairs())
    figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {"figures": figures, "ids": [rollout.id for rollout, _ in module.rollouts]}


def main(out, url, folder):
    rank = int(os.environ["RANK"])
    found = run(out, url, folder)
    try:
        run(out, url, folder, FAILING)
    except EndpointError as error:
        found["error"] = str(error)
    torch.save(found, out / f"found.{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
