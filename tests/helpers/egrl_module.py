"""The EG-RL module on the tiny model, and a run of it."""

import functools

import torch
from lightning import Trainer, seed_everything

from embedrl.data.datamodules.egrl import EGRLDataModule
from embedrl.data.mix import MixRow
from embedrl.data.tcot_lessons import TCoTLessons
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
from embedrl.rl.rewards.format import FormatReward
from embedrl.rl.rewards.outcome import OutcomeReward
from embedrl.rl.rollout import RolloutOptions

SMALL = PixelBudget(1024, 2304)


def build(**options):
    return EGRLModule(
        **{
            "generator": QwenVLReasoner(
                "embedrl:tiny", lora=LoRAOptions(r=4, alpha=8, dropout=0.0, scope="all-linear")
            ),
            "embedder": FrozenEmbedder(QwenVLBackbone("embedrl:tiny", image_pixels=SMALL)),
            "rewards": [RewardRow(FormatReward(), 0.05), RewardRow(OutcomeReward(), 0.95)],
            "optimizer": functools.partial(torch.optim.AdamW, lr=1e-2),
            "loss": GRPOLoss(),
            "group_size": 3,
            "rollout": RolloutOptions(max_new_tokens=6),
            "policy": PolicyOptions(max_tokens=200),
            "style": "brief",
            "max_new_tokens": 6,
            **options,
        },
    )


def data():
    mix = [MixRow(WorldSource(family, size=8, teacher="none")) for family in ("vqa", "grounding")]
    lessons = TCoTLessons([WorldSource("vqa", split="val")], style="brief", limit=2)
    return EGRLDataModule(batch_size=2, mix=mix, val=lessons)


def fit(module, folder, steps, ckpt_path=None, datamodule=None, **options):
    seed_everything(0, verbose=False)
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, default_root_dir=folder, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
        **{"limit_val_batches": 0, "max_epochs": -1, "logger": False, "enable_checkpointing": False, **options},
    )  # fmt: skip
    trainer.fit(module, datamodule=datamodule or data(), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def adapters(module):
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
