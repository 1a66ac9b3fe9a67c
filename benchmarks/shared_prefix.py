"""The policy pass with a shared prompt against the naive one, which computes the prompt for every reply.

    python benchmarks/shared_prefix.py              # 64/64, 512/128 and 1024/256 tokens, G = 8, a few minutes
    python benchmarks/shared_prefix.py --smallest   # seconds

Forward and backward pass of one group on the tiny Qwen3-VL with LoRA and one picture. Both passes run in turn in one
process, on one thread, so that each ratio is one of neighbours; the figures are medians over the repeats. Times are CPU
seconds of the process, which leave out what other processes take. Memory is what the forward pass keeps for the
backward pass: bytes of all tensors that autograd saved, each storage once, without the parameters; that does not depend
on the allocator, as the process's resident set would.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from PIL import Image
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from embedrl.models.generator import QwenVLReasoner
from embedrl.models.lora import LoRAOptions
from embedrl.rl.policy import Group, Policy, PolicyBatch, PolicyOptions

SIZES = ((64, 64), (512, 128), (1024, 256))


def build(checkpointing: bool) -> QwenVLReasoner:
    """A tiny policy with an adapter that does something."""
    torch.manual_seed(0)
    model = QwenVLReasoner("embedrl:tiny", LoRAOptions(r=8, alpha=16), gradient_checkpointing=checkpointing)
    model.build()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def group_of(model: QwenVLReasoner, prompt: int, response: int, size: int) -> Group:
    """A group of replies of `response` tokens to a prompt of `prompt` tokens, one picture among them."""

    def chat(words: int) -> list[dict[str, object]]:
        parts = [
            {"type": "image", "image": Image.new("RGB", (96, 96), "red")},
            {"type": "text", "text": " red" * words},
        ]
        return [{"role": "user", "content": parts}]

    rest = model.preprocessor().prompts([chat(1)])["input_ids"].shape[1] - 1
    found = chat(prompt - rest)
    assert model.preprocessor().prompts([found])["input_ids"].shape[1] == prompt
    return Group(found, torch.randint(0, 200, (size, response)).tolist())


def run(policy: Policy, batches: list[PolicyBatch]) -> tuple[float, float, Tensor, Tensor]:
    """CPU seconds, MiB kept for the backward pass, log-probs in the order of the replies, gradients in one vector."""
    parameters = [p for p in policy.generator.parameters() if p.requires_grad]
    own = {p.untyped_storage().data_ptr() for p in policy.generator.parameters()}
    seconds, found, largest = 0.0, {}, 0
    policy.generator.zero_grad()
    for batch in batches:
        kept: dict[int, int] = {}

        def pack(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        start = time.process_time()
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            logprobs = policy.log_probs(batch).logprobs
        logprobs.sum().backward()
        seconds += time.process_time() - start
        found |= dict(zip(batch.replies, logprobs.detach(), strict=True))
        largest = max(largest, sum(size for place, size in kept.items() if place not in own))
    gradients = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    return seconds, largest / 2**20, torch.stack([found[name] for name in sorted(found)]), gradients.clone()


def main() -> None:
    """Measure every size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smallest", action="store_true", help="the first size alone, once")
    parser.add_argument("--group", type=int, default=8, help="replies to a prompt (G)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--checkpointing", action="store_true", help="with gradient checkpointing")
    parser.add_argument("--max-tokens-per-row", type=int, default=PolicyOptions().max_tokens_per_row)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = build(options.checkpointing)
    whole = 10**9  # one forward pass for all rows
    policies = {
        "naive": Policy(model, PolicyOptions(shared_prefix=False, max_tokens=whole)),
        "shared": Policy(model, PolicyOptions(max_tokens_per_row=options.max_tokens_per_row, max_tokens=whole)),
    }
    print(f"G = {options.group}, torch {torch.__version__}, {vars(options)}")
    print(f"{'prompt/reply':>12}{'naive s':>9}{'shared s':>10}{'ratio':>7}", end="")
    print(f"{'naive MiB':>11}{'shared MiB':>12}{'ratio':>7}{'log-probs':>11}{'gradients':>11}")
    for prompt, response in SIZES[:1] if options.smallest else SIZES:
        group = group_of(model, prompt, response, options.group)
        batches = {name: policy.batches([group]) for name, policy in policies.items()}
        results = []
        for _ in range(1 + (1 if options.smallest else options.repeats)):
            results.append({name: run(policy, batches[name]) for name, policy in policies.items()})
        del results[0]  # warm-up
        naive, shared = ([pair[name] for pair in results] for name in policies)
        seconds = [median(x[0] for x in side) for side in (naive, shared)]
        ratio = median(a[0] / b[0] for a, b in zip(naive, shared, strict=True))
        memory = (naive[0][1], shared[0][1])
        off = (naive[0][2] - shared[0][2]).abs().max()
        gradient = (naive[0][3] - shared[0][3]).norm() / naive[0][3].norm()
        print(f"{f'{prompt}/{response}':>12}{seconds[0]:>9.3f}{seconds[1]:>10.3f}{ratio:>6.2f}x", end="")
        print(
            f"{memory[0]:>11.1f}{memory[1]:>12.1f}{memory[0] / memory[1]:>6.2f}x{off:>11.1e}{gradient:>11.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
