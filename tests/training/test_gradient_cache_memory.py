import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_peak_memory_does_not_follow_the_contrastive_batch(monkeypatch):
    """The tiny Qwen3-VL at batch 32 and 512 with the same micro-batch: two steps each, in processes of their own."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    from memory import peak_mib

    small, large = (peak_mib(str(ROOT / "configs/quickstart/embedder.yaml"), batch, steps=2) for batch in (32, 512))
    assert large < 1.15 * small
