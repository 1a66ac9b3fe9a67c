"""Imports benchmarks for their tests."""

import importlib
import sys

import pytest
from benchmarked import BENCHMARKS


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a benchmark as it is started: from its own folder."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return importlib.import_module
