"""A training step of each module on a GPU: Qwen3-VL-2B's shape with random weights.

    python benchmarks/gpu_modules.py --out benchmarks/results    # needs a GPU with 80 GB, a few minutes
    python benchmarks/gpu_modules.py --size smallest             # the tiny shape, a CPU will do: checks the code alone

Tokens a second, the share of the device's dense bfloat16 peak that goes into the model (MFU), and peak memory, each
module in LoRA training as in the recipes. Tokens are those of texts and pictures, without padding; for EG-RL those that
the policy writes. MFU counts what `embedrl plan` counts: a forward and a backward pass, for EG-RL writing the replies
and the reference as well; what is computed a second time (gradient caching, checkpointing) and EG-RL's reward count
nothing.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Literal, TypeVar

import torch
from checkpoints import write
from egrl_step import Nearness, Noise, make_pairs
from jsonargparse import auto_cli
from lightning.pytorch import LightningModule
from timing import OURS, Beside, Row, quiet_trainer, report

from embedrl.data.collate import ContrastiveCollator
from embedrl.data.datamodules.egrl import PairBatch
from embedrl.data.inputs import ModelInputs
from embedrl.data.pair_dataset import Example
from embedrl.data.render import RenderOptions, render
from embedrl.data.sft_batches import LessonCollator
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.losses.info_nce import InfoNCE
from embedrl.models.lora import LoRAOptions
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.planning import rows as planned
from embedrl.planning.flops import Flops
from embedrl.rl.grpo_loss import GRPOLoss
from embedrl.rl.module import EGRLModule
from embedrl.rl.rewards.combine import RewardRow
from embedrl.rl.rollout import RolloutOptions
from embedrl.training.embedder import EmbedderModule
from embedrl.training.reasoner import ReasonerModule
from embedrl.types import Lesson, Side

PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12, "4090": 165e12}
"""Dense bfloat16 operations a second, by a part of the device's name; from the makers' data sheets."""
Optimizer = functools.partial(torch.optim.AdamW, lr=1e-5)
T = TypeVar("T")


class Bench:
    """What is measured, and how large it is.

    Args:
        path: The checkpoint.
        folder: Where Lightning may write.
        small: The tiny sizes.
    """

    def __init__(self, path: Path, folder: Path, small: bool) -> None:
        self.folder, self.small = folder, small
        side = 48 if small else 512
        self.side, self.prompt, self.reply, self.group = side, 64 if small else 512, 4 if small else 256, 8
        self.pairs, self.micro_batch, self.steps = (2, 4, 1) if small else (64, 16, 7)
        gpu = torch.cuda.is_available()
        self.trainer = {"accelerator": "gpu" if gpu else "cpu", "precision": "bf16-mixed" if gpu else "32-true"}
        self.options = {
            "path": str(path), "lora": LoRAOptions(r=8 if small else 64, dropout=0.0),
            "image_pixels": PixelBudget(side**2, side**2), "dtype": "bfloat16" if gpu else "float32",
        }  # fmt: skip

    def embedder(self) -> Row:
        """Gradient caching over pairs of a picture with a text and a text."""
        backbone = QwenVLBackbone(**self.options)
        words = "find the red star at top left . " * (1 if self.small else 16)
        raw = RenderOptions(tcot="none")
        examples = [
            Example(
                render(Side(words, (Noise(i, self.side),)), raw), render(Side(f"{words} {i}"), raw), [], f"q{i}",
                f"t{i}", [], "noise", str(i),
            )
            for i in range(self.pairs)
        ]  # fmt: skip
        batch = ContrastiveCollator(backbone.preprocessor(), self.micro_batch)(examples)
        module = EmbedderModule(backbone, InfoNCE(), Optimizer, schedule="constant", warmup_steps=0)
        found = self._run(module, batch)
        mix = as_rows(batch.micro_batches)
        flops = Flops.of(backbone)
        return self._row("EmbedderModule", found, planned.tokens(mix), flops.forward(mix) + flops.backward(mix))

    def reasoner(self) -> Row:
        """Cross-entropy on replies to prompts with a picture."""
        generator = QwenVLReasoner(**self.options)
        part = {"type": "image", "image": Noise(0, self.side).load()}
        text = {"type": "text", "text": "red " * self.prompt}
        reply = "blue " * self.reply
        lessons = [
            Lesson([{"role": "user", "content": [part, text]}], reply, "tcot", {}) for _ in range(self.pairs // 2)
        ]
        batch = LessonCollator(generator.preprocessor(), max(self.micro_batch // 2, 1), True, "noise")(lessons)
        found = self._run(ReasonerModule(generator, Optimizer, "constant"), batch)
        mix, flops = as_rows(batch.micro_batches), Flops.of(generator)
        learned = float(sum((inputs["labels"] >= 0).sum() for inputs in batch.micro_batches))
        head = flops.head.forward(learned) + flops.head.backward(learned)
        return self._row("ReasonerModule", found, planned.tokens(mix), flops.forward(mix) + flops.backward(mix) + head)

    def egrl(self) -> Row:
        """A whole step: 8 rollouts a prompt with a picture, their vectors, the policy."""
        generator = QwenVLReasoner(**self.options)
        generator.processor.tokenizer.eos_token = "<|vision_end|>"  # never written: no reply ends by chance
        pairs = make_pairs(generator, max(self.pairs // 16, 1), self.prompt, self.side)
        module = EGRLModule(
            generator=generator, embedder=FrozenEmbedder(QwenVLBackbone(**self.options | {"lora": None})),
            rewards=[RewardRow(Nearness())], optimizer=Optimizer, loss=GRPOLoss(), group_size=self.group,
            style="brief", rollout=RolloutOptions(max_new_tokens=self.reply, stop=()),
        )  # fmt: skip
        found = self._run(module, PairBatch(pairs, "noise"))
        flops, prompts = Flops.of(generator), 2 * len(pairs)
        patches = (self.side // generator.core.config.vision_config.patch_size) ** 2
        picture = planned.TokenRow(0, (patches,))
        tokens = self.prompt + self.group * self.reply
        # A reply sees the prompt and itself.
        blocks = [(self.prompt, 1 - self.group), (self.prompt + self.reply, self.group)]
        replies = self.group * self.reply
        once = flops.forward([(picture, 1)]) + flops.text.forward(tokens, blocks) + flops.head.forward(replies)
        back = flops.backward([(picture, 1)]) + flops.text.backward(tokens, blocks) + flops.head.backward(replies)
        written = flops.forward([(planned.TokenRow(self.prompt, (patches,)), 1)])
        written += self.group * flops.written(self.prompt, self.reply)
        return self._row("EGRLModule", found, prompts * replies, prompts * (2 * once + back + written))

    def _run(self, module: LightningModule, batch: T) -> tuple[float, float]:
        """Median seconds of a step, and the most GiB that were allocated."""
        beside = Beside({})
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        quiet_trainer(self.folder, 1 + self.steps, beside, **self.trainer).fit(module, _endless(batch))
        peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
        return median(value.wall for value in beside.seconds[OURS]), peak

    def _row(self, name: str, found: tuple[float, float], tokens: float, flops: float) -> Row:
        took, peak = found
        most = device_peak()
        return {
            "module": name,
            "s / step": took,
            "tokens / s": tokens / took,
            "TFLOP / s": flops / took / 1e12,
            "MFU": f"{flops / took / most:.1%}" if most else "",
            "peak GiB": peak or "",
        }


def as_rows(micro_batches: Sequence[ModelInputs]) -> list[tuple[planned.TokenRow, float]]:
    """Texts and pictures of micro-batches as `embedrl plan` counts them."""
    lengths = [int(n) for inputs in micro_batches for n in inputs["attention_mask"].sum(1)]
    grids = [grid for inputs in micro_batches if "image_grid_thw" in inputs for grid in inputs["image_grid_thw"]]
    pictures = planned.TokenRow(0, tuple(int(grid.prod()) for grid in grids))
    return [*((planned.TokenRow(length), 1.0) for length in lengths), (pictures, 1.0)]


def device_peak() -> float | None:
    """Dense bfloat16 operations a second of the GPU; None if there is none or it is not known."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def _endless(batch: T) -> Iterator[T]:
    while True:
        yield batch


def main(size: Literal["full", "smallest"] = "full", out: Path | None = None) -> None:
    """Measure, and print the table as Markdown.

    Args:
        size: `full` needs a GPU; `smallest` takes the tiny shape on whatever there is.
        out: Folder for the results; None only prints.
    """
    small = size == "smallest"
    if not small and not torch.cuda.is_available():
        raise SystemExit("gpu_modules.py measures Qwen3-VL-2B's shape and needs a GPU; here: --size smallest")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = "tiny" if small else "2b"
        path = write(model, folder, torch.float32 if small else torch.bfloat16)
        rows = []
        for measure in ("embedder", "reasoner", "egrl"):
            rows.append(getattr(Bench(path, folder, small), measure)())
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    report("gpu_modules" if not small else "gpu_modules_smallest", rows, out, model=model)


if __name__ == "__main__":
    auto_cli(main)
