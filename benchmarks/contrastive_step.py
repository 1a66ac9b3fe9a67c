"""One contrastive training step: ours, sentence-transformers' cached loss, and the plain pass over the whole batch.

    python benchmarks/contrastive_step.py                   # tiny Qwen3-VL at batch 32, 128 and 512
    python benchmarks/contrastive_step.py --model 130m      # 130 M parameters at batch 8
    python benchmarks/contrastive_step.py --size smallest   # seconds

The same weights, pairs, loss (InfoNCE over both directions) and number of sides that go through the model at once; word
embeddings and vision tower are frozen, as LoRA leaves them. Batches are made before the clock starts, as loader workers
do. Ours is Lightning's whole training step with `EmbedderModule`; the others are the loss, its backward pass and the
optimizer, called by hand. `graphs kept` is ours with `gradient_cache: false`. All take turns in one process. Ratios are
medians of ours over theirs in CPU seconds. Memory is by how much the process's resident set grows at most, in a process
of its own for each.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from checkpoints import Model, write
from jsonargparse import auto_cli
from lightning.pytorch import Callback, LightningModule, Trainer
from timing import OURS, Beside, Row, apart, peak_mib, quiet_trainer, ratio, report, seconds
from torch import Tensor, nn

from embedrl.data.collate import ContrastiveBatch, ContrastiveCollator
from embedrl.data.pair_dataset import PairDataset, SampleKey
from embedrl.data.render import RenderOptions
from embedrl.data.world import WorldSource
from embedrl.losses.contrastive import batch_labels
from embedrl.losses.info_nce import InfoNCE
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.training.embedder import EmbedderModule
from embedrl.training.gradient_cache import GradientCache
from embedrl.types import Chat

FAMILIES = ("grounding", "t2i", "vqa", "composed", "doc", "i2t")
PEER, PLAIN, KEPT = "sentence-transformers", "plain pass", "graphs kept"
TEMPERATURE = 0.05
SIZES: dict[str, tuple[list[int], int]] = {"tiny": ([32, 128, 512], 16), "130m": ([8], 4)}
"""Batches in pairs, and sides that go through the model at once."""
Optimizer = functools.partial(torch.optim.SGD, lr=0.0)
"""The weights stay what they are, so that every round computes the same."""


class Setting:
    """One batch, made for each of the libraries, and the model.

    Args:
        path: The exported Embedder.
        batch: Pairs.
        micro_batch: Sides that go through the model at once.
    """

    def __init__(self, path: Path, batch: int, micro_batch: int) -> None:
        self.path, self.batch, self.micro_batch = path, batch, micro_batch
        self.loss = InfoNCE(TEMPERATURE, mask_duplicates=False)  # sentence-transformers masks none
        self.backbone = QwenVLBackbone(str(path))
        self.backbone.build()
        _freeze(self.backbone.core)
        sources = [WorldSource(family, size=batch) for family in FAMILIES]
        keys = [SampleKey(i % len(FAMILIES), i // len(FAMILIES)) for i in range(batch)]
        self.examples = [PairDataset(sources, RenderOptions())[key] for key in keys]

    # ------------------------------------------------------------ ours

    @functools.cached_property
    def collated(self) -> ContrastiveBatch:
        """What the data module would hand over."""
        return ContrastiveCollator(self.backbone.preprocessor(), self.micro_batch)(self.examples)

    def module(self) -> EmbedderModule:
        """The module as a recipe would make it."""
        return EmbedderModule(self.backbone, self.loss, Optimizer, schedule="constant", warmup_steps=0)

    def kept(self) -> Callable[[], Tensor]:
        """Ours without the second forward pass."""
        optimizer, batch = Optimizer(self.backbone.parameters()), self.collated
        cpu = torch.device("cpu")

        def step() -> Tensor:
            optimizer.zero_grad()
            cache = GradientCache(self.backbone, batch.micro_batches, cpu, recompute=False)
            vectors = cache.forward()
            loss = self._loss(*vectors[batch.order.argsort()].chunk(2))
            loss.backward()
            cache.backward(vectors.grad)
            optimizer.step()
            return loss.detach()

        return step

    # ------------------------------------------------------------ theirs

    def plain(self) -> Callable[[], Tensor]:
        """All queries in one padded batch, all targets in another, and all their graphs."""
        preprocess, optimizer = self.backbone.preprocessor(), Optimizer(self.backbone.parameters())
        sides = [preprocess([e.query for e in self.examples]), preprocess([e.target for e in self.examples])]

        def step() -> Tensor:
            optimizer.zero_grad()
            loss = self._loss(*(self.backbone(dict(inputs)) for inputs in sides))
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    def peer(self) -> Callable[[], Tensor]:
        """Sentence-transformers: features as its collator makes them, its cached loss over both directions."""
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

        model = SentenceTransformer(str(self.path), device="cpu").train()
        _freeze(model[0].model)
        self.peer_core = model[0].model
        loss = CachedMultipleNegativesRankingLoss(
            model, scale=1 / TEMPERATURE, mini_batch_size=self.micro_batch, partition_mode="per_direction",
            directions=("query_to_doc", "doc_to_query"),
        )  # fmt: skip
        sides = ([bare(e.query) for e in self.examples], [bare(e.target) for e in self.examples])
        features, optimizer = [model.preprocess(chats) for chats in sides], Optimizer(model.parameters())

        def step() -> Tensor:
            optimizer.zero_grad()
            found = loss([dict(side) for side in features], None)
            found.backward()
            optimizer.step()
            return found.detach()

        return step

    def _loss(self, queries: Tensor, targets: Tensor) -> Tensor:
        labels = batch_labels([e.query_key for e in self.examples], [e.target_key for e in self.examples])
        return self.loss(queries, targets, queries[:0], labels)[0]


def _freeze(core: Any) -> None:
    """Leave the layers of the language model alone trainable."""
    core.requires_grad_(False)
    core.language_model.layers.requires_grad_(True)


def bare(chat: Chat) -> Chat:
    """A chat without what only our preprocessor knows."""
    return [
        message | {"content": [{k: v for k, v in part.items() if k != "evidence"} for part in message["content"]]}
        if not isinstance(message["content"], str) else message
        for message in chat
    ]  # fmt: skip


def gradient(core: nn.Module) -> Tensor:
    """All gradients of a `Qwen3VLModel` as one vector."""
    return torch.cat([p.grad.flatten() for _, p in sorted(core.named_parameters()) if p.grad is not None])


class Keep(Callback):
    """Keeps the loss and the gradient of our last step."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Keep them."""
        self.gradient, self.loss = gradient(pl_module.backbone.core), trainer.callback_metrics["train/loss"]


def _endless(batch: ContrastiveBatch) -> Iterator[ContrastiveBatch]:
    while True:
        yield batch


def fit(module: EmbedderModule, batch: ContrastiveBatch, steps: int, *callbacks: Callback) -> None:
    """Train on the same batch."""
    with tempfile.TemporaryDirectory() as folder:
        quiet_trainer(folder, steps, *callbacks).fit(module, _endless(batch))


def memory(path: Path, batch: int, micro_batch: int, what: str) -> float:
    """MiB that a step takes at most on top of model and inputs, in this process."""
    setting = Setting(path, batch, micro_batch)
    if what == OURS:
        return peak_mib(functools.partial(fit, setting.module(), setting.collated, 2))
    step = {PEER: setting.peer, PLAIN: setting.plain, KEPT: setting.kept}[what]()
    return peak_mib(step)


def measure(path: Path, model: Model, batch: int, micro_batch: int, repeats: int, with_memory: bool) -> list[Row]:
    """The rows of one batch size."""
    setting = Setting(path, batch, micro_batch)
    calls = {PEER: setting.peer(), PLAIN: setting.plain(), KEPT: setting.kept()}
    losses: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}

    def keeping(name: str) -> Callable[[], None]:
        core = setting.peer_core if name == PEER else setting.backbone.core

        def step() -> None:
            losses[name] = calls[name]()
            gradients[name] = gradient(core)

        return step

    beside, keep = Beside({name: keeping(name) for name in calls}), Keep()
    fit(setting.module(), setting.collated, 1 + repeats, beside, keep)
    rows: list[Row] = []
    for name in (OURS, *calls):
        row: Row = {"model": model, "batch": batch, "step": name, "CPU s": seconds(beside.seconds[name])}
        row["ours / it"] = ratio(beside.seconds[OURS], beside.seconds[name]) if name != OURS else ""
        row["peak MiB"] = apart(memory, path, batch, micro_batch, name) if with_memory else ""
        row["loss off by"] = abs(float(losses[name] - keep.loss)) if name != OURS else ""
        off = (gradients.get(name, keep.gradient) - keep.gradient).norm() / keep.gradient.norm()
        row["gradient off by"] = float(off) if name != OURS else ""
        rows.append(row)
    return rows


def main(
    model: Literal["tiny", "130m"] = "tiny",
    batches: list[int] | None = None,
    micro_batch: int | None = None,
    repeats: int = 7,
    size: Literal["full", "smallest"] = "full",
    out: Path | None = None,
) -> None:
    """Measure, and print the table as Markdown.

    Args:
        model: Which Qwen3-VL.
        batches: Pairs in a batch; None takes those that suit the model.
        micro_batch: Sides that go through the model at once; None likewise.
        repeats: Rounds.
        size: `smallest` takes the first round of a batch of 4, without memory.
        out: Folder for the results; None only prints.
    """
    torch.set_num_threads(1)
    small = size == "smallest"
    batches = [4] if small else batches or SIZES[model][0]
    micro_batch = micro_batch or SIZES[model][1]
    with tempfile.TemporaryDirectory() as folder:
        path = write(model, Path(folder))
        rows = [
            row for b in batches for row in measure(path, model, b, micro_batch, 1 if small else repeats, not small)
        ]
    name = "contrastive_step" if model == "tiny" else f"contrastive_step_{model}"
    report(name, rows, out, "sentence-transformers", micro_batch=micro_batch, repeats=repeats)


if __name__ == "__main__":
    auto_cli(main)
