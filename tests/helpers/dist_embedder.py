"""Run by test_distributed.py once per rank: trains under DDP and FSDP2 and writes what came out.

python dist_embedder.py OUT ONE_RANK_CHECKPOINT
"""

import functools
import os
import sys
from pathlib import Path

import torch
from fake_backbone import FakeBackbone, FakeData, MeanRelevantScore, contrastive_batch
from lightning import Trainer
from open_clip.loss import ClipLoss

from embedrl.distributed.collectives import gather_objects, gather_rows, max_over_ranks, mean_over_ranks
from embedrl.distributed.fsdp2 import FSDP2Strategy
from embedrl.losses.contrastive import batch_labels
from embedrl.losses.cosent import CoSENT
from embedrl.losses.distillation import Distillation
from embedrl.losses.info_nce import InfoNCE
from embedrl.losses.weighted_sum import WeightedSum
from embedrl.metrics.ranking import Ranking
from embedrl.metrics.ranking import rank as rank_candidates
from embedrl.metrics.retrieval import NDCG, HitRate, score
from embedrl.training.embedder import EmbedderModule

STEPS = 3


def train(
    strategy, devices, steps=STEPS, save=None, ckpt_path=None, micro_batch_size=5, until=STEPS, backbone=None,
    loss=None, **options,
):  # fmt: skip
    """Train with AdamW; the schedule always ends at step `until`."""
    module = EmbedderModule(
        backbone or FakeBackbone(dropout=0.0),
        loss
        or WeightedSum(
            [InfoNCE(0.05), CoSENT(0.05), Distillation(0.05)], [1.0, 0.5, 0.5]
        ),  # owners and scores travel, too
        functools.partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1),
        schedule="constant",
        warmup_steps=0,
    )
    trainer = Trainer(
        accelerator="cpu", devices=devices, strategy=strategy, max_steps=steps, max_epochs=-1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, gradient_clip_val=1.0, **options,
    )  # fmt: skip
    data = FakeData(batches=until, micro_batch_size=micro_batch_size)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    if save:
        trainer.save_checkpoint(save)
    return trainer, module


def summary(trainer, module):
    """Figures of the last step and the last validation."""
    logged = {k: float(v) for k, v in trainer.logged_metrics.items() if "pairs_per_s" not in k}
    return {"logged": logged, "vectors": [r.queries for r in module.validation]}


def clip_loss_gradients(rank, world):
    """Gradients of this rank's vectors, ours and open_clip's."""
    out = []
    for ours in (True, False):
        g = torch.Generator().manual_seed(7)
        sides = torch.nn.functional.normalize(torch.randn(2, 6, 4, generator=g, dtype=torch.float64), dim=-1)
        queries, targets = (side[rank::world].clone().requires_grad_() for side in sides)
        if ours:
            labels = batch_labels(*([f"{side}{i}" for i in range(6)] for side in "qt"))
            none = torch.empty(0, 4, dtype=torch.float64)
            loss, _ = InfoNCE(0.02)(gather_rows(queries), gather_rows(targets), none, labels)
            factor = world
        else:
            clip = ClipLoss(local_loss=False, gather_with_grad=True, rank=rank, world_size=world)
            loss, factor = clip(queries, targets, logit_scale=50.0), 1
        loss.backward()
        out.append((loss.detach(), queries.grad * factor, targets.grad * factor))
    return out


UNEVEN = {
    "first": [3, 0],
    "second": [0, 2],
    "more": [1, 4],
    "equal": [2, 2],
}
"""Rows of each rank."""


def uneven_rows(dtype):
    """What the ranks hold together, `[5, 2, 3]`; integers that no float holds exactly."""
    values = torch.arange(30).reshape(5, 3, 2).transpose(1, 2)  # not contiguous
    if dtype is torch.long:
        return 2**62 + 3 * values
    return (values / 7 if dtype.is_floating_point else values % 3).to(dtype)


def gathers(rank):
    """What this rank gathers, and the gradient that its own rows get."""
    out = {}
    for name, sizes in UNEVEN.items():
        mine = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        for dtype in (torch.long, torch.bool, torch.bfloat16, torch.float64):
            out[name, str(dtype)] = gather_rows(uneven_rows(dtype)[mine])
        rows = uneven_rows(torch.float64)[mine].clone().requires_grad_()
        (gather_rows(rows) ** 3).sum().backward()
        out[name, "gradient"] = rows.grad
        out[name, "objects"] = gather_objects([f"row {i}" for i in range(5)][mine])
    out["max"] = max_over_ranks(10 - rank, torch.device("cpu"))
    out["mean"] = mean_over_ranks(torch.tensor([1.0, 3.0 * rank]))
    return out


def ranked():
    """Nine queries, the relevant candidate at different places."""
    g = torch.Generator().manual_seed(3)
    queries, candidates = torch.nn.functional.normalize(torch.randn(2, 9, 4, generator=g), dim=-1)
    return rank_candidates(queries, candidates, [{i: 1.0} for i in range(9)])


def synced(rank):
    """Metrics of which every rank has some queries, and the score that one rank asks for alone."""
    whole, metrics = ranked(), [HitRate(1), HitRate(3), NDCG(5), MeanRelevantScore()]
    mine = slice(0, 7) if rank == 0 else slice(7, 9)
    part = Ranking(*(getattr(whole, name)[mine] for name in vars(whole)))
    for metric in metrics:
        metric.update(part)
    values = {metric.name: metric.compute().item() for metric in metrics}
    alone = score(whole, metrics) if rank == 1 else {}  # would wait for the others if anything were exchanged
    return values, alone


def main(out, one_rank_checkpoint):
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    for name, strategy in (("ddp", "ddp"), ("fsdp", FSDP2Strategy())):
        result = summary(*train(strategy, world, save=out / f"{name}.ckpt"))
        torch.save(result, out / f"{name}.{rank}.pt")
        train(
            type(strategy)() if name == "fsdp" else "ddp",
            world,
            ckpt_path=one_rank_checkpoint,
            save=out / f"{name}-resumed.ckpt",
        )
    # The case at hand: rank 1 has a micro-batch fewer.
    assert len(contrastive_batch(0, rank=rank, world=world).micro_batches) == 5 - rank
    torch.save(clip_loss_gradients(rank, world), out / f"clip.{rank}.pt")
    torch.save((gathers(rank), synced(rank)), out / f"gathers.{rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2])
