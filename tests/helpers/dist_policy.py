"""Run by test_policy_distributed.py once per rank: one step of a policy under FSDP2.

python dist_policy.py OUT
"""

import os
import sys
from pathlib import Path

import torch
from policy_helpers import PROMPTS, policy_model
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from embedrl.rl.policy import Group, Policy
from embedrl.rl.rollout import LocalRollout, RolloutOptions

KEYS = [["image", "video"], ["text"]]
"""Prompts by rank: the second one never sees a picture, and has less to write."""


def sharded(mesh):
    """The policy, its layers and the rest of it sharded over the mesh."""
    model = policy_model(path="embedrl:world_base", gradient_checkpointing=True)
    if mesh is not None:
        for unit in model.shard_units():
            fully_shard(unit, mesh=mesh)
        fully_shard(model, mesh=mesh)
        for name in model.forward_methods:
            register_fsdp_forward_method(model, name)
    return model


def step(keys, world=1, mesh=None):
    """Rollouts of the named prompts, reference and policy log-probs, one SGD step; what came out by name."""
    model = sharded(mesh)
    engine = LocalRollout(model, RolloutOptions(max_new_tokens=24, max_sequences=3))
    policy = Policy(model)
    found = {}
    # Nothing may be exchanged while writing: the ranks write different numbers of tokens, at last one rank none.
    for number, names in enumerate((keys, keys if "image" in keys else [])):
        drawn = engine.generate([PROMPTS[key] for key in names], 3, names, step=number)
        found |= {f"{number}/{key}": [(s.tokens, s.logprobs) for s in g] for key, g in zip(names, drawn, strict=True)}
    assert mesh is None or all(isinstance(p, DTensor) for p in model.parameters())
    groups = [Group(PROMPTS[key], [tokens for tokens, _ in found[f"0/{key}"]]) for key in keys]
    [batch] = policy.batches(groups)
    found["reference"] = policy.reference_log_probs(batch).logprobs.sum(1).tolist()
    logprobs = policy.log_probs(batch).logprobs
    found["policy"] = logprobs.detach().sum(1).tolist()
    (logprobs.sum() * world).backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3).step()
    # The policy that the step made writes the next rollouts.
    [after] = engine.generate([PROMPTS[keys[0]]], 3, keys[:1], step=7)
    found[f"after/{keys[0]}"] = [(s.tokens, s.logprobs) for s in after]
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return found, {name: value for name, value in weights.items() if "lora" in name}


def main(out):
    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo")
    found, weights = step(KEYS[rank], 2, init_device_mesh("cpu", (2,)))
    torch.save((found, weights), Path(out) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
