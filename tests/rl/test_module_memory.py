"""`policy.max_tokens` bounds the memory of EG-RL's policy passes."""

import functools

import torch
from lightning import Trainer
from saved_tensors import SavedTensors

from embedrl.data.datamodules.egrl import EGRLDataModule
from embedrl.data.mix import MixRow
from embedrl.data.world import WorldSource
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.models.lora import LoRAOptions
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.rl.grpo_loss import GRPOLoss
from embedrl.rl.module import EGRLModule
from embedrl.rl.policy import PolicyOptions
from embedrl.rl.rewards.combine import RewardRow
from embedrl.rl.rollout import RolloutOptions
from embedrl.rl.types import RewardResult

SMALL = PixelBudget(1024, 2304)


class Turn:
    """Rewards the rollouts of a group differently, so that every group is learned from."""

    name = "turn"

    def __call__(self, step):
        return RewardResult({r.id: float(r.index % 2) for r in step.rollouts if r.id in step.mine})


def peak(folder, pairs, max_tokens):
    """Bytes that the graphs of a step hold at most."""
    module = EGRLModule(
        QwenVLReasoner("embedrl:tiny", image_pixels=SMALL, lora=LoRAOptions(r=4, alpha=8, scope="all-linear")),
        FrozenEmbedder(QwenVLBackbone("embedrl:tiny", image_pixels=SMALL)),
        [RewardRow(Turn())],
        functools.partial(torch.optim.SGD, lr=0.0),
        GRPOLoss(),
        group_size=2,
        rollout=RolloutOptions(max_new_tokens=4),
        policy=PolicyOptions(max_tokens=max_tokens),
        style="brief",
    )
    data = EGRLDataModule(pairs, [MixRow(WorldSource("vqa", size=16, teacher="none"))])
    trainer = Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    with SavedTensors() as saved:
        trainer.fit(module, data)
    assert saved.live == 0
    return saved.peak


def test_memory_is_that_of_one_pass(tmp_path):
    small, large = (peak(tmp_path, pairs, 150) for pairs in (4, 16))
    assert large < 2 * small  # the fuller a batch is, the more it holds
    assert peak(tmp_path, 16, 10**6) > 4 * large
