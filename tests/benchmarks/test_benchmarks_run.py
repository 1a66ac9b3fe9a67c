"""Every benchmark of speed runs at its smallest setting, so that none rots."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from embedrl.cli import main as cli
from embedrl.data.inserter import Placement
from embedrl.types import Lesson

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RESULTS = BENCHMARKS / "results"


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a benchmark as it is started: from its own folder."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return importlib.import_module


def rows(folder, name):
    found = json.loads((folder / f"{name}.json").read_text())
    assert {"cpu", "threads", "packages", "git"} <= set(found["machine"])
    assert (folder / f"{name}.md").read_text().startswith("| ")
    return found["rows"]


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_reranking_world(benchmark, tmp_path):
    benchmarked = benchmark("reranking_world")
    benchmarked.main(tmp_path, seeds=1, smallest=True)
    before, after, bound, perfect = rows(tmp_path, "reranking_world")
    assert after["hit@1"] == "its best 2, read by the reranker"
    assert float(bound["mean"]) >= max(float(before["mean"]), float(after["mean"]))
    assert float(perfect["vqa"]) == 1.0
    scores = json.loads((tmp_path / "scores_0.json").read_text())
    gain = sum(
        sum(scores["hits"][after["hit@1"]][family]) - sum(hits)
        for family, hits in scores["hits"][before["hit@1"]].items()
    )
    assert after["gain"].startswith(f"{gain / 16:+.3f} (")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "model_0").iterdir()}
    benchmarked.main(tmp_path, seeds=1, smallest=True)  # nothing is trained again
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "model_0").iterdir()} == stamps


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_inserter_world(benchmark, tmp_path):
    module = benchmark("inserter_world")
    module.main(tmp_path, smallest=True)
    found = rows(tmp_path, "inserter_world")
    assert [(row["placed"], row["split"]) for row in found] == [
        (name, split) for split in module.SPLITS for name in (module.SOME, module.ALL, module.SFT, module.GRPO)
    ]
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "grpo").iterdir()}
    module.main(tmp_path, smallest=True)  # nothing is trained again
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "grpo").iterdir()} == stamps


def test_chance_of_a_placement_by_hand(benchmark):
    """One picture that belongs behind the first of two sentences; behind the second it earns 2/3."""
    by_chance = benchmark("inserter_world").by_chance
    story = Lesson([], "", "insert", {"placements": (Placement(1, 1),), "images": [1], "sentences": 2})
    known = {"format": 1.0, "image_f1": 1.0, "placement": (1 + 2 / 3) / 2, "exact": 1 / 2}
    assert by_chance(story, leave_out=False) == pytest.approx(known)
    known = {"format": 1.0, "image_f1": 2 / 3, "placement": (1 + 2 / 3) / 3, "exact": 1 / 3}
    assert by_chance(story, leave_out=True) == pytest.approx(known)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_gpu_modules_at_the_tiny_shape(benchmark, tmp_path):
    benchmark("gpu_modules").main(size="smallest", out=tmp_path)
    assert [row["module"] for row in rows(tmp_path, "gpu_modules_smallest")] == [
        "EmbedderModule", "ReasonerModule", "EGRLModule",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_shared_prefix(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["shared_prefix.py", "--smallest"])
    benchmark("shared_prefix").main()
    lines = capsys.readouterr().out.splitlines()
    policy, embedder = (next(line.split() for line in lines if word in line) for word in ("64/64", "grounding"))
    assert max(map(float, policy[-2:])) < 1e-4  # log-probs, gradients
    assert float(embedder[-1]) < 1e-5  # vectors


@pytest.mark.slow
def test_world_embedder(benchmark, tmp_path, monkeypatch):
    module = benchmark("world_embedder")
    monkeypatch.setattr(module, "ROWS", dict([*module.ROWS.items()][:2]))
    short = ["--trainer.max_steps=1", "--data.init_args.batch_size=4", "--data.init_args.sub_batch_size=2"]
    module.main(str(tmp_path), seeds=1, size=2, extra=short)
    rows = (tmp_path / "table.md").read_text().splitlines()[2:]
    assert len(rows) == 4  # two trainings, chance, sizes
    assert all(row.count(" ± ") == 11 for row in rows[:2])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_embedder_options(benchmark, tmp_path, monkeypatch):
    module = benchmark("embedder_options")
    kept = (module.PLAIN, "2 mined negatives, distillation")
    monkeypatch.setattr(module, "OPTIONS", {name: module.OPTIONS[name] for name in kept})
    monkeypatch.setattr(module, "STORED", {module.PLAIN: ["float32", "first 16", "binary"]})
    module.main(tmp_path, seeds=2, smallest=True)
    options, forms = (tmp_path / "embedder_options.md").read_text().split("\n\n")
    assert [row.split("|")[1].strip() for row in options.splitlines()[2:]] == [*kept, module.MERGED]
    assert forms.splitlines()[-1].count("±") == 3
    recorded = json.loads((tmp_path / "embedder_options.json").read_text())
    assert [len(seeds) for seeds in recorded["scores"].values()] == [2, 2, 1]  # two seeds, one pair of them
    with pytest.raises(SystemExit, match="runs of another setting"):
        module.main(tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_cross_play(benchmark, checkpoint, tmp_path):
    module = benchmark("cross_play")
    paths = [str(checkpoint)] * 3
    module.main(*paths, out=str(tmp_path), other=str(checkpoint), smallest=True)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert set(scores["hits"]) == {"reward", "other"}
    assert scores["hits"]["reward"] == scores["hits"]["other"], "the same Embedder twice"
    pairs = scores["hits"]["reward"]["vqa"]
    assert len(pairs) == 9
    assert all(len(hits) == 2 for hits in pairs.values())
    assert pairs["SFT / perfect"] == pairs["RL / perfect"], "the same Reasoner twice"
    assert scores["evidence"]["perfect"]["vqa"]["queries"] == {"format": 1, "answer": 1, "iou": 1}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "test").iterdir()}
    module.main(*paths, out=str(tmp_path), other=str(checkpoint), smallest=True)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "test").iterdir()} == before, "nothing is repeated"


def test_the_report_of_egrl_world_by_hand(benchmark, tmp_path):
    """Two bases with two runs of EG-RL each, on two families of two and four queries."""
    module, line = benchmark("egrl_world_report"), dict.fromkeys(("format", "answer", "iou", "f1", "keyword_f1"), 0.5)
    (tmp_path / "val").mkdir()
    made = {"SFT 0-0": [[1, 0], [1, 0, 0, 0]], "SFT 1-0": [[0, 0], [1, 1, 0, 0]], "seen 0-0": [[0, 0], [0, 0, 0, 0]]}
    made |= {f"RL {base}-{seed}": [[1, 1], [1, 1, 1, seed]] for base in (0, 1) for seed in (0, 1)}
    for run, hits in made.items():
        row = {"hits": dict(zip(("a", "b"), hits, strict=True)), **line, "tokens a query": 7.0}
        (tmp_path / f"val/{run}.json").write_text(json.dumps({run.partition(" ")[0]: row}))
    module.report(tmp_path, "val", {"seen": "input", "SFT": "SFT", "RL": "EG-RL", "absent": "EG-RL"}, ("SFT", "RL"), 50)
    found = json.loads((tmp_path / "scores.json").read_text())
    assert [run["hit@1"] for run in found["rows"]["SFT"]] == [0.375, 0.25]
    assert {name: [*row] for name, row in found["gains"].items()} == {
        "seen": ["SFT", "RL"],
        "SFT": ["RL"],
        "RL": ["SFT"],
    }
    gain = found["gains"]["RL"]["SFT"]
    assert gain["value"] == pytest.approx((0.875 + 1) / 2 - 0.3125)
    assert 0 < gain["low"] < gain["value"] < gain["high"]
    assert found["gains"]["SFT"]["RL"]["value"] == -gain["value"]
    hits, words, gains = (tmp_path / "table.md").read_text().split("\n\n")
    assert hits.splitlines()[-1].startswith("| RL | 0.938 ± 0.115 | 1.000 ± 0.000 | 0.875 ± 0.230 | 4 |")
    assert [row.split(" | ")[0] for row in words.splitlines()[2:]] == ["| SFT", "| RL"], (
        "no evidence of what is not shown"
    )
    assert words.splitlines()[-1].endswith("| 7.0 ± 0.0 |")
    assert "| +0.000 ± 0.000 |" in gains.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_egrl_world(benchmark, tmp_path, monkeypatch):
    """In this process, to import torch once."""
    module, measure = benchmark("egrl_world"), benchmark("egrl_world_measure")

    def embedrl(*words, folder):
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            assert cli(list(words)) == 0

    monkeypatch.setattr(module, "embedrl", embedrl)
    out, turns, main = tmp_path / "out", tmp_path / "turns", "EG-RL, with verifiable evidence (supervised)"
    small = {"out": str(out), "jobs": 1, "turns": str(turns), "smallest": True}
    module.main(**small)
    rows = json.loads((out / "scores.json").read_text())["rows"]
    searched = [f"{main}, {name}" for name in module.SEARCHES]
    assert list(rows) == ["raw input", module.RAW, *[*module.FIXED][1:], main, *searched, module.PERFECT]
    assert {*measure.EVIDENCE, measure.TOKENS, "hit@1", "vqa", "video_qa"} <= rows[main][0].keys()
    assert rows[module.PERFECT][0]["iou"] == 1
    assert all(0 < rows[main][0][measure.TOKENS] < rows[name][0][measure.TOKENS] for name in searched)

    for stage, model in {"egrl_2": "reasoner", "embedder_1": "embedder"}.items():
        (turns / stage).mkdir(parents=True)
        (turns / stage / "model").symlink_to(out / f"base/runs/quickstart_{model}/model")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    module.main(**small, rows="SFT from the perfect teacher", searched=False)
    assert before.items() <= {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}.items()
    found = json.loads((out / "scores.json").read_text())
    assert {"SFT from the perfect teacher", module.TURNS} == found["rows"].keys() - rows.keys()
    assert found["rows"][module.TURNS] == found["rows"][module.START], "the same models"
    gain = found["gains"][module.PERFECT][main]
    assert gain["value"] == pytest.approx(found["rows"][module.PERFECT][0]["hit@1"] - rows[main][0]["hit@1"])
    assert gain["low"] <= gain["value"] <= gain["high"]
    assert (out / "table.md").read_text().count(f"| {module.TURNS} |") == 3
    assert (out / "plot.png").stat().st_size > 5000
    with pytest.raises(SystemExit, match="runs of another setting"):
        module.main(**small, teachers="perfect")
    with pytest.raises(SystemExit, match="--rows: no 'some'"):
        module.main(**small, rows="some")


@pytest.mark.gpu
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore")
def test_gpu_modules(benchmark, tmp_path):
    benchmark("gpu_modules").main(out=tmp_path)
    found = rows(tmp_path, "gpu_modules")
    assert found
    assert all(row["peak GiB"] < 80 for row in found)


def test_every_benchmark_is_run_by_a_test():
    here = Path(__file__).read_text()
    programs = {file.stem for file in BENCHMARKS.glob("*.py") if "__main__" in file.read_text()}
    elsewhere = {"memory", "topk_million"}  # test_memory.py, test_topk_benchmark.py
    need_data = {"real_small", "tux"}  # fetched, and minutes
    assert {name for name in programs if f'benchmark("{name}")' not in here} == elsewhere | need_data


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU only where there is none")
def test_gpu_modules_says_that_it_needs_a_gpu(benchmark):
    with pytest.raises(SystemExit, match="needs a GPU"):
        benchmark("gpu_modules").main()


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_thinking_on_demand(benchmark, tmp_path):
    module = benchmark("thinking_on_demand")
    module.main(out=tmp_path, smallest=True)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["test"]["queries"] == 3
    for curve in ("gate2", "gate5", "random", "oracle"):  # all begin and end alike, and none is above the oracle
        assert figures["test"][curve][0] == pytest.approx(figures["families"]["vqa"]["raw"])
        assert figures["test"][curve][-1] == pytest.approx(figures["families"]["vqa"]["thinking"])
        assert all(a <= b + 1e-9 for a, b in zip(figures["test"][curve], figures["test"]["oracle"], strict=True))
    assert (tmp_path / "curve.png").is_file()
    known = {"raw": torch.tensor([1.0, 0.0, 0.0, 1.0]), "thinking": torch.tensor([0.0, 1.0, 0.0, 1.0])}
    known |= {"gap2": torch.tensor([0.4, 0.1, 0.2, 0.3])}
    known = {name: values.double() for name, values in known.items()}
    assert module.best_threshold(known, 2) == pytest.approx(0.1, abs=1e-5)
    assert module.at_threshold(known, 0.15, 2) == (0.25, 0.75)
    assert module.curve(known, known["gap2"].argsort())[::5] == [0.5, 0.75, 0.75, 0.75, 0.5]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_judges(benchmark, tmp_path):
    benchmark("judges").main(size="smallest", out=tmp_path)
    means = rows(tmp_path, "judges")
    by_family = rows(tmp_path, "judges_by_family")
    assert {row["judge"] for row in means} == {"reference", "text embedder"}
    assert len(by_family) == 2 * len(means)
    (row,) = [row for row in means if (row["judge"], row["form"]) == ("text embedder", "group, hit")]
    assert row["follows"] == 1.0  # it does not see the order


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_one_or_two(benchmark, tmp_path):
    """A model with words and one with latent steps, at their smallest; what is finished is not repeated."""
    module, systems = benchmark("one_or_two"), ["UME-R1, SFT", "latent"]
    module.main(out=str(tmp_path), systems=systems, smallest=True, jobs=1)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert list(scores) == ["UME-R1, SFT, disc", "UME-R1, SFT, gen", "UME-R1, SFT, oracle", "latent"]
    disc, gen, oracle, latent = (runs["0"] for runs in scores.values())
    for row in (disc, gen, oracle, latent):
        assert set(row["hits"]) == {"vqa", "video_qa"}
        assert row["training"]["steps"] == 2
        assert row["training"]["flops"] > 1e9
        assert row["ms"] > 0
    assert oracle["hits"] == {name: list(map(max, disc["hits"][name], gen["hits"][name])) for name in gen["hits"]}
    assert (disc["tokens"], disc["latent"], disc["thinking"]) == (0, 0, 0)
    assert 0 < gen["tokens"] <= 4
    assert (latent["tokens"], latent["latent"], latent["thinking"]) == (0, 4, 1)
    assert (tmp_path / "plot.png").is_file()
    files = [*tmp_path.glob("seed 0/*.json"), *tmp_path.glob("test/*.json")]
    assert len(files) == 4
    before = {path: path.stat().st_mtime_ns for path in files}
    module.main(out=str(tmp_path), systems=systems, smallest=True, jobs=1)
    assert {path: path.stat().st_mtime_ns for path in files} == before
    with pytest.raises(SystemExit, match="--systems: no 'UME'"):
        module.main(out=str(tmp_path), systems=["UME"], smallest=True)


def test_the_report_of_one_or_two(benchmark, tmp_path):
    """Means over seeds, families and queries, computed by hand."""
    module = benchmark("one_or_two_report")
    hits = ({"a": [1.0, 0.0], "b": [1.0, 1.0]}, {"a": [0.0, 0.0], "b": [1.0, 1.0]})
    for seed, own in enumerate(hits):
        row = {"hits": own, "tokens": 10.0 + seed, "latent": 0, "thinking": 0.5, "ms": 2.0 + seed}
        content = {"rows": {"one": row}, "training": {"flops": 2e12, "steps": 300, "seconds": 120}}
        (tmp_path / "test").mkdir(exist_ok=True)
        (tmp_path / f"test/one {seed}.json").write_text(json.dumps(content))
    module.report(tmp_path, "test", ["one", "absent"])
    text = (tmp_path / "table.md").read_text()
    assert "| one | 2 | 62.5 (" in text
    assert ") | 10.5 | 0 | 50 | 2.5 | 2 | 300 | 2.0 |" in text
    assert "| one | 25.0 (" in text
    assert "| 100.0 (100.0 to 100.0) |" in text
