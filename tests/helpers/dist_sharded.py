"""Run by test_sharded_checkpoint.py once per rank: checkpoints to which every process writes its shards.

python dist_sharded.py OUT
"""

import os
import sys
import time
from pathlib import Path

import torch
from dist_embedder import train
from fake_backbone import FakeBackbone
from lightning.pytorch.strategies import model_parallel
from ports import free_port
from torch import nn

from embedrl.distributed.fsdp2 import FSDP2Strategy
from embedrl.errors import CheckpointError


class Wider(FakeBackbone):
    """Has a layer that the checkpoints lack."""

    def build(self):
        super().build()
        if len(self.net) == 6:
            self.net.append(nn.Linear(self.dim, self.dim))


def shards():
    return FSDP2Strategy(save_distributed_checkpoint=True)


def wait_for(path):
    """A checkpoint has its name when it is whole."""
    while not path.exists():
        time.sleep(0.05)


def alone(out):
    """What one process does beside the two."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    train(shards(), 1, steps=2, save=out / "one.ckpt")
    wait_for(out / "two.ckpt")
    train(shards(), 1, ckpt_path=out / "two.ckpt", save=out / "from-two.ckpt")


def interrupted_save(trainer, path):
    """A save that ends when the shards are half written."""
    save = model_parallel._distributed_checkpoint_save

    def half(state, folder):
        save({"state_dict": {}}, folder)
        raise KeyboardInterrupt

    model_parallel._distributed_checkpoint_save = half
    try:
        trainer.save_checkpoint(path)
    except KeyboardInterrupt:
        return
    finally:
        model_parallel._distributed_checkpoint_save = save
    raise AssertionError("not interrupted")


def main(out):
    rank = int(os.environ["RANK"])
    trainer, _ = train(FSDP2Strategy(), 2, save=out / "whole.ckpt")
    trainer, _ = train(shards(), 2, steps=1, save=out / "making.ckpt")
    trainer, _ = train(shards(), 2, steps=2, save=out / "making.ckpt")  # in the place of another one
    interrupted_save(trainer, out / "making.ckpt")
    if rank == 0:
        (out / "making.ckpt").rename(out / "two.ckpt")
    wait_for(out / "two.ckpt")
    train(FSDP2Strategy(), 2, ckpt_path=out / "two.ckpt", save=out / "resumed.ckpt")
    wait_for(out / "one.ckpt")
    train(FSDP2Strategy(), 2, ckpt_path=out / "one.ckpt", save=out / "from-one.ckpt")
    try:
        train(shards(), 2, ckpt_path=out / "two.ckpt", backbone=Wider(dropout=0.0))
    except CheckpointError as error:
        (out / f"wider.{rank}.txt").write_text(str(error))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
