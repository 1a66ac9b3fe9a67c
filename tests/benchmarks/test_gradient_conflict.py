"""The conflict of both gradients over a unified training, at its smallest setting and by hand."""

import json

import pytest


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_gradient_conflict(benchmark, tmp_path):
    module = benchmark("gradient_conflict")
    module.main(out=str(tmp_path), smallest=True, jobs=1)
    found = json.loads((tmp_path / "cosines 0.json").read_text())
    assert {"embedding", "vision", "layer_0", "mean", "all"} <= set(found)
    for layer, points in found.items():
        assert [step for step, _ in points] == [4, 9], layer
        assert all(-1 <= value <= 1 and value != 0 for _, value in points), layer
    assert (tmp_path / "plot.png").is_file()
    before = (tmp_path / "cosines 0.json").stat().st_mtime_ns
    module.main(out=str(tmp_path), smallest=True, jobs=1)
    assert (tmp_path / "cosines 0.json").stat().st_mtime_ns == before


def test_the_table_of_conflicts(benchmark):
    """Means over seeds of the first and of the last third, and the share below 0, by hand."""
    table = benchmark("gradient_conflict").table
    one = {"all": [(0, 0.5), (1, -0.5), (2, -0.1)]}
    other = {"all": [(0, 0.1), (1, 0.2), (2, -0.3)]}
    assert table({"a": one, "b": other}).splitlines()[-1] == "| `all` | +0.30 | -0.20 | 50 |"
