"""The benchmarks of steps, embedding, loading and growth, at their smallest setting."""

import sys

import pytest
import torch
from benchmarked import rows


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_contrastive_step(benchmark, tmp_path):
    benchmark("contrastive_step").main(size="smallest", out=tmp_path)
    ours, *others = rows(tmp_path, "contrastive_step")
    assert ours["step"] == "embedrl"
    assert len(others) == 3
    assert all(row["loss off by"] < 1e-5 and row["gradient off by"] < 1e-5 for row in others)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_contrastive_memory(benchmark, tmp_path):
    path = benchmark("checkpoints").write("tiny", tmp_path)
    benchmarked = benchmark("contrastive_step")
    assert benchmark("timing").apart(benchmarked.memory, path, 2, 2, "graphs kept") > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_egrl_step(benchmark, tmp_path):
    benchmark("egrl_step").main(size="smallest", out=tmp_path)
    _, trl = rows(tmp_path, "egrl_step")
    assert trl["loss off by"] < 1e-5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_throughput(benchmark, tmp_path):
    benchmark("throughput").main(size="smallest", out=tmp_path)
    ours, *others = rows(tmp_path, "throughput")
    assert ours["computed / real tokens"] == 1 < max(row["computed / real tokens"] for row in others)
    assert all(row["vectors off by"] < 1e-5 for row in others)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_scaling(benchmark, tmp_path):
    module = benchmark("scaling")
    module.main(size="smallest", out=tmp_path, plot=tmp_path / "scaling.png")
    measured, exponents = rows(tmp_path, "scaling"), rows(tmp_path, "scaling_exponents")
    assert {(row["curve"], row["work"]) for row in measured} == {
        (c, n) for c, all_ in module.SMALLEST.items() for n in all_
    }
    assert all(row["CPU s"] > 0 for row in measured)
    assert [row["curve"] for row in exponents] == list(module.FULL)
    assert (tmp_path / "scaling.png").stat().st_size > 5000


def test_exponents(benchmark):
    module = benchmark("scaling")
    made = [
        {"curve": name, "work": n, "of": "things", "CPU s": 0.5 * n**power, "peak MiB": peak}
        for name, power, peak in (("line", 1, 3.0), ("square", 2, 0.0))
        for n in (2, 4, 16)
    ]
    line, square = module.fitted(made)
    assert (line["work"], line["time"], line["memory"]) == ("2 to 16 things", pytest.approx(1), pytest.approx(0))
    assert (square["time"], square["memory"]) == (pytest.approx(2), "")


@pytest.mark.slow
def test_startup(benchmark, tmp_path):
    benchmark("startup").main(size="smallest", out=tmp_path)
    assert len(rows(tmp_path, "startup")) == 5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_loader(benchmark, tmp_path):
    benchmark("loader").main(size="smallest", out=tmp_path)
    found = rows(tmp_path, "loader")
    assert found
    assert all(row["pairs / s"] > 0 for row in found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_shared_prefix(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["shared_prefix.py", "--smallest"])
    benchmark("shared_prefix").main()
    lines = capsys.readouterr().out.splitlines()
    policy = next(line.split() for line in lines if "64/64" in line)
    embedder, credit = (line.split() for line in lines if "grounding" in line)
    assert max(map(float, policy[-2:])) < 1e-4  # log-probs, gradients
    assert float(embedder[-1]) < 1e-5  # vectors
    assert float(credit[-1]) < 1e-5
    assert float(credit[3].removesuffix("x")) < float(credit[5].removesuffix("x"))  # one pass, and one by one


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_gpu_modules_at_the_tiny_shape(benchmark, tmp_path):
    benchmark("gpu_modules").main(size="smallest", out=tmp_path)
    assert [row["module"] for row in rows(tmp_path, "gpu_modules_smallest")] == [
        "EmbedderModule", "ReasonerModule", "EGRLModule",
    ]  # fmt: skip


@pytest.mark.gpu
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore")
def test_gpu_modules(benchmark, tmp_path):
    benchmark("gpu_modules").main(out=tmp_path)
    found = rows(tmp_path, "gpu_modules")
    assert found
    assert all(row["peak GiB"] < 80 for row in found)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU only where there is none")
def test_gpu_modules_says_that_it_needs_a_gpu(benchmark):
    with pytest.raises(SystemExit, match="needs a GPU"):
        benchmark("gpu_modules").main()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_embedding_profile(benchmark, tmp_path):
    module = benchmark("embedding_profile")
    module.main(size="smallest", out=tmp_path)
    ours, *others = rows(tmp_path, "embedding_profile")
    for row in (ours, *others):
        parts = [row[place] for place in (module.TOWER, module.LANGUAGE, module.PREPARATION)]
        assert min(parts) > 0
        assert row["sum"] == pytest.approx(sum(parts))
        assert min(row[kind] for kind in module.OPERATORS) > 0  # of another call: no part of these seconds
    assert ours["without padding"] == ""
    assert max(row["without padding"] or 1 for row in others) > 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_egrl_bound(benchmark, tmp_path):
    benchmark("egrl_bound").main(size="smallest", out=tmp_path)
    *phases, step = rows(tmp_path, "egrl_bound")
    assert [row["phase"] for row in phases] == ["rollout", "reward", "policy"]
    for name in ("billion operations", "least, CPU s", "took, CPU s"):
        assert step[name] == pytest.approx(sum(row[name] for row in phases))
        assert min(row[name] for row in phases) > 0
    assert step["took / least"] > 1
