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
from embedrl.planning.pictures import PictureReader, PlannedPicture
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
        self.bytes = 2 if gpu else 4
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
        flops, mix = self._planned(QwenVLBackbone(**self.options), batch.micro_batches)
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
        flops, mix = self._planned(QwenVLReasoner(**self.options), batch.micro_batches)
        learned = float(sum((inputs["labels"] >= 0).sum() for inputs in batch.micro_batches))
        head = learned * (flops.head.forward + flops.head.backward)
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
        prompts, replies = 2 * len(pairs), self.group * self.reply
        flops, picture = self._planned(QwenVLReasoner(**self.options), [])[0], self._picture()
        # A reply sees the prompt and itself.
        seen = self.group * (self.prompt + self.reply) ** 2 - (self.group - 1) * self.prompt**2
        text = flops.text.linear * (self.prompt + replies) + flops.text.square * seen + flops.head * replies
        once, back = picture.cost.forward + text.forward, picture.cost.backward + text.backward
        written = flops.forward([(planned.TokenRow(self.prompt, (picture,)), 1)])
        written += self.group * flops.written(self.prompt, self.reply)
        return self._row("EGRLModule", found, prompts * replies, prompts * (2 * once + back + written))

    def _planned(
        self, model: QwenVLBackbone | QwenVLReasoner, micro_batches: Sequence[ModelInputs]
    ) -> tuple[Flops, planned.Mix]:
        """What a model takes for each token, and micro-batches as `embedrl plan` counts them."""
        model.build_on_meta()
        self.reader = PictureReader(model, self.bytes)
        lengths = [int(n) for inputs in micro_batches for n in inputs["attention_mask"].sum(1)]
        pictures = sum(len(inputs["image_grid_thw"]) for inputs in micro_batches if "image_grid_thw" in inputs)
        shown = [(planned.TokenRow(0, (self._picture(),)), float(pictures))] if pictures else []
        return Flops.of(model, self.bytes), [*((planned.TokenRow(length), 1.0) for length in lengths), *shown]

    def _picture(self) -> PlannedPicture:
        return self.reader.read("image", (self.side, self.side))

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
