"""`micro_batch_size` bounds the memory of the Embedder's training; the Reasoner's: test_reasoner_step.py."""

import functools
import sys
from pathlib import Path

import pytest
import torch
from benchmarked import BENCHMARKS
from lightning import Trainer
from saved_tensors import SavedTensors

from embedrl.data.datamodules.embedder import EmbedderDataModule
from embedrl.data.mix import MixRow
from embedrl.data.render import RenderOptions
from embedrl.data.world import WorldSource
from embedrl.losses.info_nce import InfoNCE
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.training.embedder import EmbedderModule

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("config", "batches"), [("embedder", (32, 512)), ("reasoner", (16, 256))])
def test_peak_memory_does_not_follow_the_batch(monkeypatch, config, batches):
    """The tiny Qwen3-VL at two batch sizes with the same micro-batch: two steps each, in processes of their own."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    from memory import peak_mib

    small, large = (peak_mib(str(ROOT / f"configs/quickstart/{config}.yaml"), batch, steps=2) for batch in batches)
    assert large < 1.15 * small


@pytest.mark.parametrize("gradient_cache", [True, False])
def test_graphs_of_the_embedder(tmp_path, gradient_cache):
    """With gradient caching the graph of one micro-batch, without it those of all, at 4 and 32 pairs a batch."""
    peaks = []
    for pairs in (4, 32):
        backbone = QwenVLBackbone("embedrl:tiny", image_pixels=PixelBudget(1024, 2304))
        optimizer = functools.partial(torch.optim.SGD, lr=0.0)
        module = EmbedderModule(backbone, InfoNCE(0.05), optimizer, gradient_cache=gradient_cache)
        source = WorldSource("vqa", size=32, teacher="none")
        data = EmbedderDataModule(pairs, pairs, 4, mix=[MixRow(source)], render=RenderOptions(tcot="none"))
        trainer = Trainer(
            accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        with SavedTensors() as saved:
            trainer.fit(module, data)
        assert saved.live == 0
        peaks.append(saved.peak)
    small, large = peaks
    assert large < 1.3 * small if gradient_cache else large > 6 * small
