"""Run by test_distributed.py once per rank: a vision-language model under FSDP2 whose rank 1 never sees a picture.

python dist_qwen.py CHECKPOINT OUT
"""

import os
import sys
from pathlib import Path

import torch
from qwen_helpers import EMB, image, text, user
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh

from embedrl.distributed.fsdp2 import shard_model
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.vlm.backbone import VLMBackbone
from embedrl.training.gradient_cache import GradientCache

CHATS = [
    [[user(image(0), text("one")), EMB], [user(image(1), text("two")), EMB]],
    [[user(text("three")), EMB], [user(text("four five")), EMB]],
]
"""By rank, by micro-batch."""


def build(path, train_vision):
    """The model before training: by the family's own package, if it has one."""
    kind = VLMBackbone if str(path).startswith("embedrl:tiny/") else QwenVLBackbone
    backbone = kind(str(path), train_vision=train_vision)
    backbone.build()
    return backbone


def weights(backbone):
    """All parameters, gathered."""
    return get_model_state_dict(backbone, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def step(path, chats, train_vision, mesh=None, build=build):
    """One SGD step on a loss that is linear in the vectors; returns the weights."""
    backbone = build(path, train_vision)
    if mesh is not None:
        shard_model(backbone, mesh)
    batches = [backbone.preprocessor()([chat]) for chat in chats]
    cache = GradientCache(backbone, batches, torch.device("cpu"), len(batches))
    vectors = cache.forward()
    gradient = torch.linspace(-1, 1, vectors.shape[-1]).expand_as(vectors).clone()
    cache.backward(gradient)
    torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1).step()
    return weights(backbone)


def main(checkpoint, out):
    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    for train_vision in (True, False):
        trained = step(checkpoint, CHATS[rank], train_vision, mesh)
        if rank == 0:
            torch.save(trained, Path(out) / f"{train_vision}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], sys.argv[2])
