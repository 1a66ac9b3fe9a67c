"""A policy on lessons whose replies can be verified, on the tiny model, and a run of it."""

import functools

import torch
from egrl_module import adapters, fit

from embedrl.data.datamodules.verifiable_rl import VerifiableRLDataModule
from embedrl.models.lora import LoRAOptions
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.rl.grpo_loss import GRPOLoss
from embedrl.rl.policy import PolicyOptions
from embedrl.rl.reply_rewards import ReplyRewardRow
from embedrl.rl.rollout import RolloutOptions
from embedrl.rl.verifiable_module import VerifiableRLModule
from embedrl.types import Lesson

__all__ = ["Colours", "Vowels", "adapters", "build", "data", "fit"]


class Colours:
    """Questions whose gold is a number."""

    name = "colours"

    def __init__(self, size=6, wrong=()):
        self.size, self.wrong = size, wrong

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        text = "word " * (3000 if index in self.wrong else 3)
        return Lesson([{"role": "user", "content": [{"type": "text", "text": f"{text} {index}"}]}], "red", "colour",
                      {"number": index})  # fmt: skip


class Vowels:
    """Share of the letters of a reply that are an `e`: something that random replies differ in."""

    name = "vowels"

    def __call__(self, lesson: Lesson, reply: str) -> float | None:
        return reply.count("e") / max(len(reply), 1)


def build(**options):
    lora = LoRAOptions(r=4, alpha=8, dropout=0.0, scope="all-linear")
    return VerifiableRLModule(
        **{
            "generator": QwenVLReasoner("embedrl:tiny", lora=lora, max_length=256),
            "rewards": [ReplyRewardRow(Vowels(), 2.0)],
            "optimizer": functools.partial(torch.optim.AdamW, lr=1e-2),
            "loss": GRPOLoss(),
            "group_size": 4,
            "rollout": RolloutOptions(max_new_tokens=6),
            "policy": PolicyOptions(max_tokens=400),
            "max_new_tokens": 6,
            **options,
        }
    )


def data(**options):
    return VerifiableRLDataModule(**{"batch_size": 2, "train": Colours(), "val": Colours(3), **options})
