"""Run by test_embedder_experts.py once per rank: an Embedder with LoRA experts under DDP and FSDP2.

python dist_experts.py OUT
"""

import os
import sys
from pathlib import Path

import torch
from dist_embedder import summary, train
from fake_backbone import INPUT, FakeBackbone
from torch import nn

from embedrl.distributed.fsdp2 import FSDP2Strategy
from embedrl.losses.expert_aware import ExpertAwareInfoNCE
from embedrl.models.experts import ExpertOptions, name_text_layers, routing_of
from embedrl.models.lora import LoRAOptions, add_lora


class FakeExperts(FakeBackbone):
    """Sides of two tokens and one of padding, which is 100 times as large; the second one is pooled."""

    routing = None

    def build(self):
        if self.net is not None:
            return
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            net = nn.Sequential(
                nn.Linear(INPUT, 32), nn.Tanh(), nn.Sequential(nn.Linear(32, 32), nn.Tanh()), nn.Linear(32, self.dim)
            )
            adapted = add_lora(net, LoRAOptions(2, 8, 0.0, experts=ExpertOptions(3, 2, 0.3)), ["0", "2.0", "3"])
        name_text_layers(net, net)
        self.routing = routing_of(net)
        self.net, self.calls = adapted.get_base_model(), 0

    def encode(self, inputs):
        x = inputs["x"]
        rows = torch.stack([x, x.flip(-1), 100 * torch.ones_like(x)], dim=1)
        mask = torch.tensor([1, 1, 0]).expand(len(x), 3)
        self.routing.begin(mask, 3 * torch.arange(len(x)) + 1)
        return nn.functional.normalize(self.net(rows)[:, 1].float(), dim=-1)

    def shard_units(self):
        return [self.net[2]]


def run(strategy, devices, save=None, **options):
    """The figures of a training, expert-aware weights being in the second half of its steps."""
    loss = ExpertAwareInfoNCE(4.0, 0.5, 0.1)
    return summary(*train(strategy, devices, save=save, backbone=FakeExperts(dropout=0.0), loss=loss, **options))


def main(out):
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    for name, strategy in (("ddp", "ddp"), ("fsdp", FSDP2Strategy())):
        torch.save(run(strategy, world, out / f"{name}.ckpt"), out / f"{name}.{rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
