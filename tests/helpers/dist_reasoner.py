"""Run by test_reasoner_distributed.py once per rank: supervised training under FSDP2 and DDP.

python dist_reasoner.py OUT
"""

import functools
import os
import sys
from pathlib import Path

import torch
from lightning import Callback, LightningDataModule, Trainer
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from embedrl.data.datamodules.reasoner import ReasonerDataModule
from embedrl.data.sft_batches import LessonBatch, LessonCollator
from embedrl.data.world.lessons.curriculum import Stage, WorldExam, WorldLessons
from embedrl.distributed.fsdp2 import FSDP2Strategy
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.training.callbacks.export_model import ExportModel
from embedrl.training.reasoner import ReasonerModule
from embedrl.types import Lesson

STEPS = 3
ACCUMULATED = {"steps": 2, "accumulate_grad_batches": 2}
"""Of two batches and of one, which the epoch has left."""
REDUCE_SCATTER = next(n for n in ("reduce_scatter_single", "reduce_scatter_tensor") if hasattr(torch.distributed, n))
"""What FSDP2 calls; the name has changed."""
SEEN = WorldLessons([Stage(None, {"where": 1.0, "point": 1.0})], 12)


def lessons(step, rank):
    """Rank 0 has two micro-batches with pictures; rank 1 has one without, and fewer tokens to write."""
    if rank == 0:
        return [SEEN[4 * step + i] for i in range(4)]
    ask = [{"role": "user", "content": [{"type": "text", "text": "what is red ?"}]}]
    return [Lesson(ask, reply, "answer") for reply in ("star", "red circle at top left")]


class Lessons(LightningDataModule):
    """The lessons of all ranks for one process; of its own rank for each of two. Two lessons to answer, or one."""

    def __init__(self, exam):
        super().__init__()
        self.exam = exam

    def train_dataloader(self):
        preprocessor = self.trainer.lightning_module.generator.preprocessor()
        collate = LessonCollator(preprocessor, 2, True, "test")
        ranks = [self.trainer.global_rank] if self.trainer.world_size > 1 else [0, 1]
        batches = [[collate(lessons(step, rank)) for rank in ranks] for step in range(STEPS)]
        batches = [LessonBatch([m for p in parts for m in p.micro_batches], []) for parts in batches]
        done = self.trainer.global_step  # a resumed run goes on with the next one
        return DataLoader(batches[done:] + batches[:done], batch_size=None)

    def val_dataloader(self):
        data = ReasonerDataModule(2, 2, val=WorldExam(["where"], each=self.exam), generate_batch_size=1)
        data.trainer = self.trainer
        return data.val_dataloader()


class Reductions(Callback):
    """How often a batch exchanges gradients: DDP its last bucket, FSDP2 the gradients of a unit."""

    def __init__(self):
        self.counts, self.units = [], 0

    def on_train_start(self, trainer, module):
        model = trainer.strategy.model
        if isinstance(model, DistributedDataParallel):
            model.register_comm_hook(None, self._reduce_bucket)
        self.units = sum(isinstance(part, FSDPModule) for part in module.modules())
        self.reduce_scatter = getattr(torch.distributed, REDUCE_SCATTER)
        setattr(torch.distributed, REDUCE_SCATTER, self._reduce_unit)

    def on_train_batch_start(self, *_):
        self.counts.append(0)

    def on_train_end(self, *_):
        setattr(torch.distributed, REDUCE_SCATTER, self.reduce_scatter)

    def _reduce_bucket(self, state, bucket):
        self.counts[-1] += bucket.is_last()
        return allreduce_hook(state, bucket)

    def _reduce_unit(self, *args, **kwargs):
        self.counts[-1] += 1
        return self.reduce_scatter(*args, **kwargs)


def train(strategy, devices, steps=STEPS, save=None, ckpt_path=None, exam=1, callbacks=(), **options):
    """Train with AdamW, then write one reply: one of two ranks has nothing to write."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = ReasonerModule(
            QwenVLReasoner("embedrl:world_base", train_vision=True),
            functools.partial(torch.optim.AdamW, lr=1e-3, eps=1e-4),
            schedule="constant",
            warmup_steps=0,
            max_new_tokens=6,
        )
    reductions = Reductions()
    trainer = Trainer(
        accelerator="cpu", devices=devices, strategy=strategy, max_steps=steps, max_epochs=-1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False, gradient_clip_val=1.0, check_val_every_n_epoch=None, val_check_interval=STEPS,
        callbacks=[reductions, *callbacks], **options,
    )  # fmt: skip
    trainer.fit(module, datamodule=Lessons(exam), ckpt_path=ckpt_path, weights_only=True)
    if save:
        trainer.save_checkpoint(save)
    figures = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.endswith("_per_s")}
    replies = [reply for _, reply, _ in module.replies]
    return {"figures": figures, "replies": replies, "reductions": reductions.counts, "units": reductions.units}


def main(out):
    rank = int(os.environ["RANK"])
    for name, strategy in (("fsdp", FSDP2Strategy), ("ddp", lambda: "ddp")):
        ship = {"callbacks": [ExportModel(str(out / "shipped"))]} if name == "fsdp" else {}
        result = train(strategy(), 2, save=out / f"{name}.ckpt", exam=3 if name == "fsdp" else 1, **ship)
        torch.save(result, out / f"{name}.{rank}.pt")
        result = train(strategy(), 2, save=out / f"{name}-accumulated.ckpt", **ACCUMULATED)
        torch.save(result, out / f"{name}-accumulated.{rank}.pt")
    train(FSDP2Strategy(), 2, steps=2, save=out / "two.ckpt")
    train(FSDP2Strategy(), 2, ckpt_path=out / "two.ckpt", save=out / "resumed.ckpt")
    shards = FSDP2Strategy(save_distributed_checkpoint=True)
    train(shards, 2, ckpt_path=out / "two.ckpt", save=out / "shards.ckpt")
    train(FSDP2Strategy(), 2, ckpt_path=out / "one-at-2.ckpt", save=out / "from-one.ckpt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
