"""Run by test_module_distributed.py once per rank: EG-RL under FSDP2 and DDP through the Trainer.

python dist_egrl.py OUT
"""

import functools
import os
import sys
import time
from pathlib import Path

import torch
from lightning import Callback, LightningDataModule, Trainer
from policy_helpers import policy_model
from torch.utils.data import DataLoader

from embedrl.data.datamodules.egrl import EGRLDataModule, PairBatch
from embedrl.data.mix import MixRow
from embedrl.data.tcot_lessons import TCoTLessons
from embedrl.data.world import WorldSource, WorldTasks
from embedrl.distributed.fsdp2 import FSDP2Strategy
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.models.networks import NetworkReader
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.rl import module as egrl
from embedrl.rl.grpo_loss import GRPOLoss
from embedrl.rl.policy import PolicyOptions
from embedrl.rl.rewards.combine import RewardRow, total_rewards
from embedrl.rl.rewards.format import FormatReward
from embedrl.rl.rewards.judge import Question, ReferenceJudge
from embedrl.rl.rewards.outcome import OutcomeReward
from embedrl.rl.rewards.process import ProcessReward
from embedrl.rl.rollout import RolloutOptions
from embedrl.rl.types import RewardResult
from embedrl.training.callbacks.reasoned_retrieval import ReasonedRetrieval
from embedrl.types import Pair, Side

WORDS = 12


class LastPairsAlike:
    """Asks the reference about the rollouts of the first two pairs, pays the others alike; one has no verdict."""

    name = "asked"

    def bind(self, scorer):
        self.scorer = scorer

    def __call__(self, step):
        values = {r.id: 0.5 for r in step.rollouts}
        if asked := [r for r in step.rollouts if r.id in step.mine and r.pair < 2]:
            chats = [Question(r.id, f"{r.text} ?", 2).chat for r in asked]
            scores = self.scorer.score_choices(chats, [["star", "circle"]] * len(asked))
            values |= {r.id: float(score.softmax(0)[0]) for r, score in zip(asked, scores, strict=True)}
        return RewardResult(values | {"0/query/0": None})


class Pairs(LightningDataModule):
    """Steps of four pairs: two with pictures, then two without."""

    def train_dataloader(self):
        seen = WorldSource("vqa", size=8, teacher="none")
        steps = []
        for step in range(2):
            plain = [Pair(Side(f"what is {word} ?"), Side("star"), "words", word) for word in ("red", "blue")]
            pairs = [seen[2 * step], seen[2 * step + 1], *plain]
            if self.trainer.world_size > 1:
                pairs = pairs[2 * self.trainer.global_rank :][:2]
            steps.append(PairBatch(pairs, "words"))
        return DataLoader(steps, batch_size=None)


def paper_data():
    """Data with a loader whose position is resumed; three lessons to write in validation."""
    val = TCoTLessons([WorldSource("vqa", split="val")], style="brief", limit=3, roles=["query"])
    mix = [MixRow(WorldSource(family, size=16, teacher="none")) for family in ("vqa", "grounding")]
    return EGRLDataModule(4, mix, val, generate_batch_size=1)


class SaveAt(Callback):
    """Saves a checkpoint after a step, as a file and perhaps as a folder of shards."""

    def __init__(self, step, path, folder=None):
        self.step, self.path, self.folder = step, path, folder

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            if self.folder:
                trainer.strategy._save_distributed_checkpoint = True
                trainer.save_checkpoint(self.folder)
                trainer.strategy._save_distributed_checkpoint = False


def counted(judge):
    """The numbers of questions that the judge is going to get."""
    numbers, choose = [], judge.choose
    judge.choose = lambda questions: numbers.append(len(questions)) or choose(questions)
    return numbers


load_network = NetworkReader.load


def refuse(*_):
    raise AssertionError("under FSDP2 rank 0 alone reads weights")


def build(kind):
    judge = ReferenceJudge()
    paper = [(FormatReward(), 0.05), (ProcessReward(judge), 0.8), (OutcomeReward(), 0.2)]
    rewards = [RewardRow(*row) for row in (paper if kind == "paper" else [(LastPairsAlike(), 1.0)])]
    module = egrl.EGRLModule(
        # The adapter does something, so that the reference differs from the start; it reaches the vision tower.
        generator=policy_model(path="embedrl:world_base", scope="all-linear", max_length=2048),
        embedder=FrozenEmbedder(QwenVLBackbone("embedrl:tiny")),
        rewards=rewards,
        optimizer=functools.partial(torch.optim.AdamW, lr=1e-2, eps=1e-3),
        loss=GRPOLoss(kl_coefficient=0.05),
        group_size=3,
        rollout=RolloutOptions(max_new_tokens=WORDS),
        policy=PolicyOptions(max_tokens=300),
        inner_epochs=2 if kind == "paper" else 1,
        # In its place: the policy with its adapter off, which is the same.
        reference=None if kind == "paper" else QwenVLReasoner("embedrl:world_base", max_length=2048),
        style="brief",
        max_new_tokens=4,
    )
    return module, counted(judge)


def run(kind, strategy="auto", devices=1, steps=None, save=None, ckpt_path=None, callbacks=()):
    """Train; what the rewards of this process were, step by step, and what was logged."""
    NetworkReader.load = load_network  # `build` reads the policy's weights on every rank, to change them
    module, questions = build(kind)
    alone = devices == 1 or strategy == "ddp" or os.environ["RANK"] == "0"
    NetworkReader.load = load_network if alone else refuse  # those of the frozen models
    seen = []

    def spy(rows, step):
        found = total_rewards(rows, step)
        seen.append({name: [found.totals[name], *(p[name] for p in found.parts.values())] for name in found.totals})
        return found

    egrl.total_rewards = spy
    scored = ReasonedRetrieval([WorldTasks(size=2, families=["vqa"])], style="brief", max_new_tokens=3)
    steps = steps or {"paper": 6, "idle": 2}[kind]
    trainer = Trainer(
        accelerator="cpu", devices=devices, strategy=strategy, max_steps=steps, max_epochs=-1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False, check_val_every_n_epoch=None, val_check_interval=2,
        callbacks=[scored, *callbacks] if kind == "paper" else [*callbacks],
    )  # fmt: skip
    data = paper_data() if kind == "paper" else Pairs()
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    if save:
        trainer.save_checkpoint(save)
    figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
    replies = [reply for _, reply, _ in module.replies]
    return {"rewards": seen, "questions": questions, "figures": figures, "replies": replies}


def main(out):
    rank = int(os.environ["RANK"])
    half = SaveAt(4, out / "half.ckpt", out / "half-shards.ckpt")
    shards = FSDP2Strategy(save_distributed_checkpoint=True)
    runs = {
        "paper-fsdp": lambda save: run("paper", FSDP2Strategy(), 2, save=save, callbacks=[half]),
        "paper-resumed": lambda save: run("paper", shards, 2, save=save, ckpt_path=out / "half-shards.ckpt"),
        "paper-ddp": lambda save: run("paper", "ddp", 2, steps=2, save=save),
        "idle-fsdp": lambda save: run("idle", FSDP2Strategy(), 2, save=save),
        "idle-ddp": lambda save: run("idle", "ddp", 2, save=save),
        "paper-from-one": lambda save: run("paper", FSDP2Strategy(), 2, save=save, ckpt_path=out / "paper-4.ckpt"),
    }
    for name, start in runs.items():
        while name == "paper-from-one" and not (out / "paper.ckpt").exists():  # the test's process trains meanwhile
            time.sleep(0.1)
        torch.save(start(out / f"{name}.ckpt"), out / f"{name}.{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
