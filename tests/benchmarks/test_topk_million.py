"""The benchmark of ranking by blocks runs, and memory stays far below the corpus."""

import json
import subprocess
import sys

import pytest
from benchmarked import BENCHMARKS

BENCHMARK = BENCHMARKS / "topk_million.py"


@pytest.mark.slow
def test_peers_find_the_same():
    flags = ["--rows", 3000, "--dim", 64, "--queries", 8, "--k", 10, "--shard", 512, "--peers", "true"]
    done = subprocess.run([sys.executable, BENCHMARK, *map(str, flags)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["ours_over_torch_topk"] > 0


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    flags = ["--rows", 60_000, "--dim", 768, "--queries", 4, "--k", 10, "--shard", 2048, "--folder", tmp_path]
    done = subprocess.run(
        [sys.executable, BENCHMARK, *map(str, flags)], capture_output=True, text=True, check=False, timeout=250
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["corpus_mib"] == 176
    assert 0 < result["grown_mib"] < 80
