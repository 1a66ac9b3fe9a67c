"""What G replies to a prompt, or G T-CoTs of a side, cost with their beginning computed once, and G times.

    python benchmarks/shared_prefix.py              # policy pass and frozen Embedder, G = 8, a few minutes
    python benchmarks/shared_prefix.py --only variants   # what step credit costs
    python benchmarks/shared_prefix.py --only variants --model 130m   # where reading the input is little of the work
    python benchmarks/shared_prefix.py --smallest   # seconds

The policy: forward and backward pass of one group on the tiny Qwen3-VL with LoRA and one picture, at 64/64, 512/128 and
1024/256 tokens. The frozen Embedder: all that it does to embed 8 sides of the built-in world with G T-CoTs each, those
of other pairs with crops where they point: rendering, preprocessing, forward pass; and one side with a large picture,
of 512 tokens. Step credit: the same T-CoTs and their prefixes (the side alone, up to the end of `thinking`, of
`rethink`) in one pass, and one by one, beside the T-CoTs alone. What is compared runs in turn in one process, on one
thread, so that each ratio is one of neighbours; the figures are medians over the repeats. CPU seconds of the process
leave out what other processes take. Memory is what the forward pass keeps for the backward pass: bytes of all tensors
that autograd saved, each storage once, without the parameters; that does not depend on the allocator, as the process's
resident set would.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import torch
from checkpoints import write
from PIL import Image
from timing import interleaved, ratio, seconds
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from embedrl.data.variants import Variant
from embedrl.data.world import WorldSource
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.models.lora import LoRAOptions
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.rl.policy import Group, Policy, PolicyBatch, PolicyOptions
from embedrl.rl.rewards.step_credit import StepCreditReward
from embedrl.types import Side

SIZES = ((64, 64), (512, 128), (1024, 256))
LARGE = PixelBudget(512 * 16**2, 540 * 16**2)  # a picture of 512 to 540 tokens
SIDES = (("grounding", 8, None), ("moment", 8, None), ("t2i", 8, None), ("grounding", 1, LARGE))
"""Queries with a picture, with a video, with neither, and their number; with a large picture."""
VARIANTS = StepCreditReward.variants
WAYS: dict[str, tuple[bool, tuple[Variant, ...]]] = {
    "alone": (True, ()), "one pass": (True, VARIANTS), "apart": (False, VARIANTS),
}  # fmt: skip
"""T-CoTs alone; with their prefixes in one pass; with the prefixes as chats of their own: whether beginnings are
shared, and what of each T-CoT to embed."""


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


def measure_policy(options: argparse.Namespace, repeats: int) -> None:
    """Print the table of the policy pass."""
    model = build(options.checkpointing)
    whole = 10**9  # one forward pass for all rows
    policies = {
        "naive": Policy(model, PolicyOptions(shared_prefix=False, max_tokens=whole)),
        "shared": Policy(model, PolicyOptions(max_tokens_per_row=options.max_tokens_per_row, max_tokens=whole)),
    }
    print(f"{'prompt/reply':>12}{'naive s':>9}{'shared s':>10}{'ratio':>7}", end="")
    print(f"{'naive MiB':>11}{'shared MiB':>12}{'ratio':>7}{'log-probs':>11}{'gradients':>11}")
    for prompt, response in SIZES[:1] if options.smallest else SIZES:
        group = group_of(model, prompt, response, options.group)
        batches = {name: policy.batches([group]) for name, policy in policies.items()}
        results = []
        for _ in range(1 + repeats):
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


def sides_of(family: str, count: int, group: int) -> list[Side]:
    """Queries of the built-in world with `group` T-CoTs each."""
    source = WorldSource(family, size=count + group, teacher="perfect")
    queries = [source[i].query for i in range(len(source))]
    return [queries[i].with_tcot(queries[i + j].tcot) for i in range(count) for j in range(group)]


def measure_embedder(options: argparse.Namespace, repeats: int) -> None:
    """Print the table of the frozen Embedder."""
    print(f"{'sides':>12}{'naive s':>9}{'shared s':>10}{'CPU':>7}{'time':>8}{'vectors':>10}")
    for family, count, pixels in SIDES[:1] if options.smallest else SIDES:
        sides = sides_of(family, count, options.group)
        backbone = QwenVLBackbone(options.embedder, None, False, pixels, PixelBudget(2304, 6912))
        embedders = [FrozenEmbedder(backbone, shared_prefix=shared) for shared in (False, True)]
        results = []
        for _ in range(1 + repeats):
            pair = []
            for embedder in embedders:
                cpu, wall = time.process_time(), time.perf_counter()
                vectors = embedder.embed(sides, [family] * len(sides), torch.device("cpu"))
                pair.append((time.process_time() - cpu, time.perf_counter() - wall, vectors))
            results.append(pair)
        del results[0]  # warm-up
        seconds = [median(pair[k][0] for pair in results) for k in (0, 1)]
        ratios = [median(naive[k] / shared[k] for naive, shared in results) for k in (0, 1)]
        off = (results[0][0][2] - results[0][1][2]).abs().max()
        print(f"{family if pixels is None else 'large':>12}{seconds[0]:>9.3f}{seconds[1]:>10.3f}", end="")
        print(f"{ratios[0]:>6.2f}x{ratios[1]:>7.2f}x{off:>10.1e}", flush=True)


def embed_variants(way: str, sides: list[Side], backbone: QwenVLBackbone, vectors: dict[str, Tensor]) -> None:
    """Embed T-CoTs, and their prefixes if this way has them; keep the vectors."""
    shared, variants = WAYS[way]
    embedder = FrozenEmbedder(backbone, shared_prefix=shared)
    vectors[way] = embedder.embed_variants(sides, ["world"] * len(sides), torch.device("cpu"), variants)


def measure_variants(options: argparse.Namespace, repeats: int) -> None:
    """Print the table of step credit."""
    print(f"{'sides':>12}{'alone s':>9}{'one pass s':>12}{'CPU':>7}{'apart s':>9}{'CPU':>7}{'vectors':>10}")
    for family, count, pixels in SIDES[:1] if options.smallest else SIDES:
        sides = sides_of(family, count, options.group)
        backbone = QwenVLBackbone(options.embedder, None, False, pixels, PixelBudget(2304, 6912))
        vectors: dict[str, Tensor] = {}
        found = interleaved({way: partial(embed_variants, way, sides, backbone, vectors) for way in WAYS}, repeats)
        off = (vectors["one pass"] - vectors["apart"]).abs().max()
        print(f"{family if pixels is None else 'large':>12}{seconds(found['alone']):>9.3f}", end="")
        for way, width in (("one pass", 12), ("apart", 9)):
            print(f"{seconds(found[way]):>{width}.3f}{ratio(found[way], found['alone']):>6.2f}x", end="")
        print(f"{off:>10.1e}", flush=True)


def main() -> None:
    """Measure every size and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smallest", action="store_true", help="the first size alone, once")
    parser.add_argument("--group", type=int, default=8, help="replies to a prompt, T-CoTs of a side (G)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--checkpointing", action="store_true", help="with gradient checkpointing")
    parser.add_argument("--max-tokens-per-row", type=int, default=PolicyOptions().max_tokens_per_row)
    parser.add_argument("--only", choices=["policy", "embedder", "variants"], help="one table alone")
    parser.add_argument("--model", choices=["world", "130m"], default="world", help="the Embedder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    repeats = 1 if options.smallest else options.repeats
    print(f"torch {torch.__version__}, {vars(options)}")
    tables = {"policy": measure_policy, "embedder": measure_embedder, "variants": measure_variants}
    with tempfile.TemporaryDirectory() as folder:
        options.embedder = "embedrl:world_base" if options.model == "world" else str(write("130m", Path(folder)))
        for name, measure in tables.items():
            if options.only in (None, name):
                measure(options, repeats)


if __name__ == "__main__":
    main()
