"""`embedrl eval` and `embedrl compare` through the command line: the figures of a training run, again."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from cli_process import logged
from safetensors.torch import load_file, save_file
from small_sources import LESSONS

from embedrl.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = str(CONFIGS / "parts/backbone/tiny.yaml")
TASKS = [
    {
        "class_path": "embedrl.data.world.WorldTasks",
        "init_args": {"split": "val", "size": 6, "families": ["vqa", "composed"]},
    }
]
SMALL = {
    "trainer": {
        "max_steps": 2, "val_check_interval": 2, "enable_progress_bar": False, "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
}  # fmt: skip
MRR_AT_200 = '[{"class_path": "embedrl.metrics.MRR", "init_args": {"k": 200}}]'
LOGGED = {"hit@1": "hit@1", "hit@5": "hit@5", "hit@10": "hit@10", "ndcg@5": "ndcg_linear@5"}


def run(*args) -> int:
    return main([str(arg) for arg in args])


def overlay(path: Path, content: dict) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder in which the Embedder's quickstart has run two steps."""
    folder = tmp_path_factory.mktemp("trained")
    ship = {"class_path": "embedrl.training.ExportModel", "init_args": {"out": "runs/quickstart_embedder/model"}}
    data = {"val": TASKS, "test": TASKS, "batch_size": 4, "sub_batch_size": 2, "micro_batch_size": 8}
    more = {**SMALL, "trainer": {**SMALL["trainer"], "callbacks": [ship]}, "data": {"init_args": data}}
    path = overlay(folder / "overlay.yaml", more)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run("fit", "--config", CONFIGS / "quickstart/embedder.yaml", "--config", path) == 0
    return folder


@pytest.fixture
def inside(trained, monkeypatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


def evaluate(out, *more, tasks=TASKS) -> int:
    return run("eval", "--config", CONFIGS / "eval/world.yaml", "--tasks", json.dumps(tasks), "--out", out, *more)


def figures(out) -> dict:
    return {result["name"]: result for result in json.loads((Path(out) / "report.json").read_text())["sets"]}


def last(folder: Path, tag: str) -> float:
    values = logged(folder, tag)
    return values[max(values)][-1]


def equals_the_log(folder: Path, out) -> None:
    found = figures(out)
    for log, metric in LOGGED.items():
        values = [result["metrics"][metric] for result in found.values()]
        for name, result in found.items():
            assert last(folder, f"val/{name}/{log}") == pytest.approx(result["metrics"][metric], abs=1e-6)
        assert last(folder, f"val/{log}") == pytest.approx(sum(values) / len(values), abs=1e-6)
    for name, result in found.items():
        assert last(folder, f"val/{name}/delta_s") == pytest.approx(result["delta_s"], abs=1e-6)


@pytest.fixture(scope="module")
def scored(trained) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained)
        metrics = [{"class_path": "embedrl.metrics.HitRate", "init_args": {"k": 12}}]  # as many as there are candidates
        assert evaluate("full", "--metrics", json.dumps(metrics)) == 0
    return trained / "full"


def test_the_figures_are_those_of_the_training_run(inside, scored):
    equals_the_log(inside / "runs/quickstart_embedder/version_0", scored)
    report = json.loads((scored / "report.json").read_text())
    scores = [result["metrics"]["hit@1"] for result in report["sets"]]
    assert report["means"] == {"mean": pytest.approx(sum(scores) / 2)}


def test_a_run_is_an_embedder_too(inside, scored):
    assert evaluate("of_the_run", "--checkpoint", "runs/quickstart_embedder") == 0
    theirs = {name: result["metrics"] for name, result in figures("of_the_run").items()}
    for name, result in figures(scored).items():
        same = {metric: result["metrics"][metric] for metric in theirs[name]}
        assert theirs[name] == pytest.approx(same, abs=1e-6)
    config = yaml.safe_load(Path("of_the_run/config.yaml").read_text())
    assert (config["checkpoint"], config["backbone"]) == ("runs/quickstart_embedder", None)


def test_what_is_written(scored):
    scores = json.loads((scored / "scores.json").read_text())
    assert scores["metadata"]["embedding_dimension"] == 128
    assert scores["metadata"]["versions"] == {"vqa": "world-1", "composed": "world-1"}
    vqa = scores["metrics"]["world"]["vqa"]
    assert {"hit@1", "ndcg_linear@5", "ndcg_exponential@10", "map@10", "mrr@5", "f1@1"} < set(vqa)
    assert vqa["hit@12"] == 1
    assert vqa["num_pred"] == vqa["num_data"] == 6
    rows = pq.read_table(scored / "queries/composed.parquet").to_pylist()
    assert len(rows) == 6
    assert sum(row["score"] for row in rows) / 6 == pytest.approx(scores["metrics"]["world"]["composed"]["hit@1"])
    for row in rows:
        assert len(row["found"]) == len(row["found_scores"]) == 12
        assert row["found_scores"] == sorted(row["found_scores"], reverse=True)
        assert row["delta_s"] == pytest.approx(row["found_scores"][0] - row["found_scores"][1], abs=1e-6)
        assert (row["first_relevant"] == 1) == (row["score"] == 1)
        assert row["query_cues"] >= 1
    (start,) = json.loads((scored / "provenance.json").read_text())["starts"]
    assert start["sides_embedded"] > 24
    assert start["packages"]["torch"]
    assert len(start["model"]["model"]["weights"]) == 64
    assert start["config"]["benchmark"] == "world"


def test_its_own_configuration_repeats_it_without_embedding(inside, scored, capsys):
    before = figures(scored)
    assert run("eval", "--config", scored / "config.yaml") == 0, capsys.readouterr().err
    assert figures(scored) == before
    assert json.loads((scored / "provenance.json").read_text())["starts"][-1]["sides_embedded"] == 0


def test_what_smaller_vectors_cost(inside, scored, capsys):
    cache = ["--encode.cache", scored / "vectors"]
    assert evaluate("smaller", *cache, "--vectors", "int8", "--dim", "16") == 0
    printed, report = capsys.readouterr().out, json.loads(Path("smaller/report.json").read_text())
    assert (
        report["storage"] | {"name": "int8, 16 numbers", "dim": 16, "bytes": 16, "float32_bytes": 512}
        == report["storage"]
    )
    assert "int8, 16 numbers: 16 bytes a vector, 32 times fewer" in printed
    assert "the model names no shorter lengths" in printed
    before = figures(scored)
    for name, result in figures("smaller").items():
        assert result["metrics"].items() <= before[name]["metrics"].items()  # those of whole float32 vectors
        assert result["stored"].keys() == result["metrics"].keys()
    assert report["stored_means"]["mean"] == pytest.approx(sum(r["stored"]["hit@1"] for r in report["sets"]) / 2)
    assert evaluate("smaller", *cache, "--vectors", "binary", "--rescore", "12") == 0  # the same folder
    assert "binary, best 12 scored again: 16 bytes a vector" in capsys.readouterr().out
    assert evaluate("longer", *cache, "--dim", "129") == 2
    assert "--dim 129: the model's vectors have 128 numbers: give at most that" in capsys.readouterr().err
    config = inside / "runs/quickstart_embedder/model/config.json"
    content = config.read_text()
    config.write_text(json.dumps({**json.loads(content), "is_matryoshka": True, "matryoshka_dimensions": [16, 64]}))
    try:
        assert evaluate("unlisted", *cache, "--dim", "32") == 2
    finally:
        config.write_text(content)
    assert "--dim 32: the model was trained for the lengths 16, 64: give one of these" in capsys.readouterr().err
    assert not Path("unlisted").exists()


def test_another_configuration_does_not_enter_the_folder(inside, scored, capsys):
    assert evaluate(scored, "--render.cues", "off") == 2
    assert "holds an evaluation with another render" in capsys.readouterr().err


def test_another_model_does_not_enter_the_folder(inside, scored, capsys):
    path = inside / "runs/quickstart_embedder/model/model.safetensors"
    whole = path.read_bytes()
    weights = load_file(path)
    name = sorted(weights)[0]
    save_file({**weights, name: weights[name] + 0.1}, path, metadata={"format": "pt"})
    try:
        assert evaluate(scored) == 2
        assert "holds an evaluation of other weights" in capsys.readouterr().err
    finally:
        path.write_bytes(whole)


def test_ablations_share_the_cache_and_are_compared(inside, scored, capsys):
    assert evaluate("none", "--render.tcot", "none", "--encode.cache", scored / "vectors") == 0
    for result in figures("none").values():
        assert set(result["evidence"].values()) == {0}
    assert run("compare", "none", scored) == 0, capsys.readouterr().err
    assert (scored / "compare_none/delta_s.png").stat().st_size > 5000
    assert (scored / "compare_none/evidence.png").stat().st_size > 5000
    assert "full minus none" in capsys.readouterr().out


def test_with_a_reasoner_the_figures_are_those_of_its_training(inside, capsys):
    frozen = {
        "class_path": "embedrl.FrozenEmbedder",
        "init_args": {"backbone": str(CONFIGS / "parts/backbone/quickstart_embedder.yaml")},
    }
    retrieval = {
        "class_path": "embedrl.training.ReasonedRetrieval",
        "init_args": {"tasks": TASKS, "embedder": frozen, "style": "brief", "max_new_tokens": 48},
    }
    ship = {"class_path": "embedrl.training.ExportModel", "init_args": {"out": "reasoner"}}
    content = {
        "trainer": {**SMALL["trainer"], "callbacks": [retrieval, ship], "limit_val_batches": 1},
        "data": {"init_args": {"batch_size": 4, "micro_batch_size": 4, **LESSONS}},
        "model": {"init_args": {"max_new_tokens": 4}},
    }
    path = overlay(inside / "reasoner.yaml", content)
    assert run("fit", "--config", CONFIGS / "quickstart/reasoner.yaml", "--config", path) == 0, capsys.readouterr().err
    reasoner = {
        "class_path": "embedrl.QwenVLReasoner",
        "init_args": {"path": "reasoner", "max_length": 512},
    }
    flags = [
        "--reasoner", json.dumps(reasoner), "--tcots.style", "brief", "--tcots.max_new_tokens", 48,
        "--render.on_bad_tcot", "lenient", "--render.on_missing_tcot", "raw",
    ]  # fmt: skip
    assert evaluate("reasoned", *flags) == 0, capsys.readouterr().err
    equals_the_log(inside / "runs/quickstart_reasoner/version_0", "reasoned")
    first = figures("reasoned")
    counts = [result["tcots"] for result in first.values()]
    assert all(count["cached"] == count["absent"] == 0 < count["written"] for count in counts)

    # Again, from the journal alone; and by the journal's name for the model, without the Reasoner.
    journal = [json.loads(line) for line in Path("reasoned/tcots.jsonl").read_text().splitlines()]
    assert len(journal) == sum(count["written"] for count in counts)
    again = ["--tcots.cache", "reasoned/tcots.jsonl", "--encode.cache", "reasoned/vectors"]
    assert evaluate("again", *flags, *again) == 0
    assert [r["tcots"]["written"] for r in figures("again").values()] == [0, 0]
    assert {n: r["metrics"] for n, r in figures("again").items()} == {n: r["metrics"] for n, r in first.items()}
    assert json.loads(Path("again/provenance.json").read_text())["starts"][0]["sides_embedded"] == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--benchmark", "mmeb_v1"], "--benchmark mmeb_v1: no such benchmark; did you mean mmeb_v2?"),
        (["--benchmark", "uvrb"], "--root: give the folder with the local copy of uvrb"),
        (["--benchmark", "uvrb", "--root", "/nowhere"], "--root /nowhere: no such folder"),
        (["--sets", "[vqb]"], "--sets vqb: no such data set; did you mean vqa?"),
        (["--root", "/tmp"], "--root: only for mmeb_v2 and uvrb"),
        (["--beside", "[GPT]"], "--beside GPT: no published figures on world"),
        (["--keep", "5"], "--keep 5: the metrics need the best 10"),
        (
            ["--metrics", '[{"class_path": "embedrl.metrics.MRR", "init_args": {"k": 200}}]'],
            "the metrics need the best 200",
        ),
        (["--metrics", "[]"], "--metrics is empty"),
        (["--vectors", "int4"], "--vectors"),
        (["--dim", "0"], "--dim is 0"),
        (["--rescore", "50"], "--rescore 50 with --vectors float32"),
        (
            ["--metrics+", "torchmetrics.retrieval.RetrievalHitRate"],
            "--metrics: Import path does not correspond to a sub",
        ),
        (["--encode.shard_size", "0"], "--encode.shard_size is 0"),
        (["--tcots.cache", "nowhere.jsonl"], "--tcots.model: name the model"),
        (["--tcots.cache", "nowhere.jsonl", "--tcots.model", "m"], "nowhere.jsonl: no such journal"),
        (["--out", "overlay.yaml"], "--out overlay.yaml: a file"),
        (["--out", "runs"], "--out runs: not empty, and holds no evaluation"),
        (["--out", "runs/quickstart_embedder/version_0"], "version_0: not empty, and holds no evaluation"),
        (["--no_such", "1"], "no such option"),
        (["--backbone", "null"], "no Embedder: give --checkpoint (a run, a .ckpt, an export) or --backbone"),
        (["--checkpoint", "runs/nothing"], "--checkpoint runs/nothing: "),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_a_wrong_flag_is_said_in_one_line(flags, said, inside, capsys):
    config = overlay(
        inside / "eval.yaml",
        {"benchmark": "world", "backbone": TINY, "out": "wrong"}
        | ({"tasks": TASKS} if "--benchmark" not in flags else {}),
    )
    assert run("eval", "--config", config, *flags) != 0
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("embedrl: error: ")
    assert said in error


def test_a_journal_without_the_t_cots_is_no_silent_fall_back(inside, capsys):
    Path("empty.jsonl").touch()
    flags = ["--tcots.cache", "empty.jsonl", "--tcots.model", "m"]
    assert evaluate("missing", *flags) == 1
    error = capsys.readouterr().err
    assert "sides have no T-CoT in empty.jsonl" in error
    assert "--render.on_missing_tcot raw" in error
    assert evaluate("missing_raw", *flags, "--render.on_missing_tcot", "raw") == 0
    out = capsys.readouterr().out
    for name, result in figures("missing_raw").items():
        total = result["queries"] + result["candidates"]
        assert result["raw_sides"] == total
        assert f"{name}: {total} of {total} sides had no T-CoT and were embedded raw" in out


def test_sets_that_were_not_asked_for_and_help(inside, capsys):
    assert evaluate("one", "--sets", "[composed]") == 0
    assert list(figures("one")) == ["composed"]
    report = json.loads(Path("one/report.json").read_text())
    assert report["missing"] == {"vqa": "not asked for"}
    assert report["means"] == {"mean": None}
    assert "vqa: not asked for" in capsys.readouterr().out
    with pytest.raises(SystemExit) as done:
        run("eval", "--help")
    assert done.value.code == 0
    assert "--render.tcot" in capsys.readouterr().out
