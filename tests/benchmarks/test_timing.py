"""What all benchmarks of speed share: paired ratios, tables, recorded figures; and that each has a test."""

from pathlib import Path

import pytest
from benchmarked import BENCHMARKS

RESULTS = BENCHMARKS / "results"


def test_ratios_pair_by_pair(benchmark):
    timing = benchmark("timing")
    ours, theirs = ([timing.Seconds(9.0, cpu) for cpu in values] for values in ((1.0, 20.0, 3.0), (2.0, 10.0, 4.0)))
    assert timing.ratio(ours, theirs) == 0.75
    assert timing.seconds(ours) == 3.0
    called = []
    found = timing.interleaved({name: lambda name=name: called.append(name) for name in "ab"}, 2)
    assert called == ["a", "b"] * 3
    assert [len(values) for values in found.values()] == [2, 2]


def test_a_table(benchmark):
    table = benchmark("timing").markdown([{"a": 1, "b": 0.5}, {"a": "x", "b": 1e-6}, {"a": 12.3, "b": ""}])
    assert table.splitlines()[2:] == ["| 1 | 0.500 |", "| x | 1.0e-06 |", "| 12.3 |  |"]


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.md")), ids=lambda file: file.stem)
def test_the_documented_figures_are_the_recorded_ones(file):
    pages = [(BENCHMARKS.parent / "docs" / name).read_text() for name in ("performance.md", "results.md", "scale.md")]
    assert any(file.read_text().strip() in page for page in pages)


def test_every_benchmark_is_run_by_a_test():
    tests = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    programs = {file.stem for file in BENCHMARKS.glob("*.py") if "__main__" in file.read_text()}
    elsewhere = {"memory", "topk_million"}  # training/test_gradient_cache_memory.py, test_topk_million.py
    need_data = {"real_small", "tux"}  # fetched, and minutes
    assert {name for name in programs if f'benchmark("{name}")' not in tests} == elsewhere | need_data
