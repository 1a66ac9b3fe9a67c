"""The benchmarks of an index, a service and a large corpus, at their smallest setting."""

import pytest
from benchmarked import rows
from PIL import Image


@pytest.mark.slow
def test_index_million(benchmark, tmp_path):
    pytest.importorskip("lancedb")
    benchmark("index_million").main(size="smallest", out=tmp_path)
    exact, quick, hnsw = rows(tmp_path, "index_million")
    assert exact["recall@10"] > 0.999
    assert quick["recall@10"] > 0.9
    assert hnsw["recall@10"] > 0.9


def test_scale_is_worked_out(benchmark):
    scale = benchmark("scale")
    operations = scale.Operations(bare=10.0, with_tcot=20.0, reading=5.0, writing=1.0, dim=1000)
    given = scale.Inputs(
        items=(3_600_000,), actors=10, peak=1000.0, utilisation=0.5, writing=0.1, gpu_hour=2.0, month=0.01,
        beside=5867.0, commit=36_000, parts=2, row=1e-3, key=2e-6,
    )  # fmt: skip
    bare, tcot, full = scale.embedded(operations, given)
    assert (bare["GPU hours"], bare["hours on 10"], bare["items a second"], bare["cost"]) == ("20", "2", "500", "40")
    assert (tcot["GPU seconds each"], full["GPU seconds each"]) == ("0.0200", "0.0400")
    (row,) = scale.stored(operations, given)
    assert (row["bytes a row"], row["TB"], row["cost a month"], row["commits"]) == ("10,000", "0.04", "0", "100")
    assert row["writer's CPU hours"] == "1.1"  # one hour, and 100 commits of 3.6 s at the mean
    assert scale.write_hours(3_600_000, given) == pytest.approx(1.1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_scale(benchmark, tmp_path, capsys):
    pytest.importorskip("lancedb")
    for color in ("red", "blue"):
        Image.new("RGB", (64, 48), color).save(tmp_path / f"{color}.png")
    benchmark("scale").main(measured_in=tmp_path, embedder="embedrl:tiny", largest=2000, out=tmp_path / "out")
    pictures, speed, row, *_ = rows(tmp_path / "out", "scale_measured")
    assert pictures["value"] == 2
    assert speed["value"] > 0
    assert 500 < row["value"] < 50_000
    benchmark("scale").main()
    assert "1,000,000,000" in capsys.readouterr().out


@pytest.mark.slow
def test_service_load(benchmark, tmp_path):
    pytest.importorskip("fastapi")
    benchmark("service_load").main(size="smallest", out=tmp_path)
    found = rows(tmp_path, "service_load")
    assert [row["clients"] for row in found] == [1, 8, 64]
    assert all((row["answered"], row["lost"]) == (24, 0) for row in found)
