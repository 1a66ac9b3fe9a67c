"""Run by test_embedder_tokens.py once per rank: Embedders with one vector a token under DDP and FSDP2.

python dist_late.py OUT
"""

import os
import sys
from pathlib import Path

import dist_qwen
import torch
from dist_embedder import summary, train
from token_vectors import FakeTokens
from torch.distributed.device_mesh import init_device_mesh

from embedrl.distributed.fsdp2 import FSDP2Strategy, shard_model, whole_copy
from embedrl.losses.late_interaction import MaxSimInfoNCE
from embedrl.models.late_interaction import LateInteraction

TINY = "embedrl:tiny"


def fake(strategy, devices, save=None):
    """The figures of a training of ragged token vectors."""
    return summary(*train(strategy, devices, save=save, backbone=FakeTokens(dropout=0.0), loss=MaxSimInfoNCE(0.1)))


def build(path, train_vision):
    """A Qwen3-VL with a projection, which pools its sides."""
    model = LateInteraction(dist_qwen.build(path, train_vision), dim=8, budget=6)
    torch.manual_seed(0)
    model.build()
    return model


def copied(mesh):
    """The weights of a sharded model's whole copy; None on ranks other than the first."""
    model = build(TINY, True)
    shard_model(model, mesh)
    copy = whole_copy(model)
    return None if copy is None else copy.state_dict()


def main(out):
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    for name, strategy in (("ddp", "ddp"), ("fsdp", FSDP2Strategy())):
        torch.save(fake(strategy, world, out / f"{name}.ckpt"), out / f"{name}.{rank}.pt")
    mesh = init_device_mesh("cpu", (2,))
    trained, copy = dist_qwen.step(TINY, dist_qwen.CHATS[rank], True, mesh, build), copied(mesh)
    if rank == 0:
        torch.save((trained, copy), out / "late.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
