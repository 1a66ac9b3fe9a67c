"""Figures, what every query found, what is missing, and comparisons."""

import io
import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from scipy.stats import bootstrap as scipy_bootstrap

from embedrl.cli import main
from embedrl.data.render import RenderOptions
from embedrl.errors import ConfigError, DataError
from embedrl.evaluation.compare import bootstrap, common_sets, load
from embedrl.evaluation.jobs import find_jobs
from embedrl.evaluation.report import Submission, make_report, print_report, read_report, report_notes, write_report
from embedrl.evaluation.results import data_hash, first_relevant, rank_task, set_result, write_queries
from embedrl.evaluation.table import load_table
from embedrl.evaluation.tcots import count_raw
from embedrl.metrics.ranking import Blocks
from embedrl.tcot.parser import build
from embedrl.types import Modality, RetrievalTask, Side

IDENTITY = {"model": {"weights": "w"}, "render": {}}


def task(name="toy", queries=12, candidates=20, **more):
    tcot = build(Modality.TEXT, "a", "b", "c", keywords=["u", "v"]).render()
    sides = [[Side(text=f"{kind} {i}", tcot=tcot) for i in range(n)] for kind, n in (("q", queries), ("c", candidates))]
    qrels = [{i: 1.0, (i + 3) % candidates: 2.0} for i in range(queries)]
    ids = [f"id{i}" for i in range(queries)], [f"cand{i}" for i in range(candidates)]
    return RetrievalTask(name, *sides, qrels, query_ids=ids[0], candidate_ids=ids[1], **more)


def blocks(count, seed):
    vectors = torch.nn.functional.normalize(torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)), dim=1)
    return Blocks(count, lambda: vectors.split(7))


def scored(which, seed=0, keep=15, group="image/cls", **more):
    rankings = rank_task(which, blocks(len(which.queries), seed), blocks(len(which.candidates), seed + 1), keep)
    hashes = [s.key for s in which.queries], [s.key for s in which.candidates]
    return rankings, set_result(which, group, rankings, hashes, **more)


def evaluation(folder, seed, names=("one", "two"), **more):
    results = []
    (folder / "queries").mkdir(parents=True)
    for i, name in enumerate(names):
        which = task(name, queries=40, candidates=50, **more)
        rankings, result = scored(which, seed + i)
        results.append(result)
        write_queries(folder / f"queries/{name}.parquet", which, rankings[0])
    write_report(folder, make_report("mine", results, {}, IDENTITY), Submission(), 6, None)
    return folder


def test_what_every_query_found(tmp_path):
    which = task(main_metric="ndcg_linear@5")
    rankings, result = scored(which)
    write_queries(tmp_path / "q.parquet", which, rankings[0])
    rows = pq.read_table(tmp_path / "q.parquet").to_pylist()
    assert [row["query"] for row in rows] == list(which.query_ids)
    assert np.mean([row["score"] for row in rows]) == pytest.approx(result.metrics["ndcg_linear@5"])
    assert np.mean([row["delta_s"] for row in rows]) == pytest.approx(result.delta_s)
    scores = torch.cat(list(blocks(12, 0).read())) @ torch.cat(list(blocks(20, 1).read())).T
    for i, row in enumerate(rows):
        order = [f"cand{c}" for c in scores[i].argsort(descending=True)[:15].tolist()]
        assert row["found"] == order
        assert row["found_scores"] == pytest.approx(scores[i].sort(descending=True).values[:15].tolist(), abs=1e-6)
        places = [order.index(f"cand{c}") + 1 for c in which.qrels[i] if f"cand{c}" in order]
        assert row["first_relevant"] == min(places, default=None)
        assert (row["query_cues"], row["target_cues"]) == (2, 2)


def test_a_relevant_candidate_that_was_not_kept_has_no_rank():
    which = task(queries=12, candidates=40)
    (ranking, _), _ = scored(which, keep=10)
    ranks = first_relevant(ranking)
    assert None in ranks
    assert all(rank is None or 1 <= rank <= 10 for rank in ranks)


def test_a_query_with_one_candidate_has_no_gap(tmp_path):
    which = task(queries=1, candidates=1)
    which = replace(which, qrels=[{0: 1.0}])
    rankings, result = scored(which, keep=10)
    write_queries(tmp_path / "q.parquet", which, rankings[0])
    assert pq.read_table(tmp_path / "q.parquet")["delta_s"].to_pylist() == [None]
    assert result.delta_s is None


def test_ties_are_told():
    which = task()
    same = Blocks(20, lambda: torch.ones(20, 6).split(7))
    rankings = rank_task(which, Blocks(12, lambda: [torch.ones(12, 6)]), same, 10)
    result = set_result(which, "g", rankings, ([s.key for s in which.queries], [s.key for s in which.candidates]))
    assert (result.score, result.optimistic["hit@1"]) == (0, 1)
    assert "toy: ties: 100.0 with ties in favour" in report_notes(make_report("mine", [result], {}, IDENTITY))[0]


def test_a_missing_data_set_is_listed_and_averaged_into_nothing():
    names = [row.name for row in load_table("mmeb_v2")]
    results = [scored(task(name), seed)[1] for seed, name in enumerate(names[:-1])]
    report = make_report("mmeb_v2", results, {}, IDENTITY)
    assert list(report.missing) == [names[-1]]
    assert report.means["All"] is None
    everything = [*results, scored(task(names[-1]), 99)[1]]
    report = make_report("mmeb_v2", everything, {}, IDENTITY)
    assert report.missing == {}
    assert report.means["All"] == pytest.approx(np.mean([result.score for result in everything]))


def test_what_could_not_be_read_is_missing_with_its_reason():
    report = make_report("mine", [scored(task())[1]], {"other": "gone.jsonl: no such file"}, IDENTITY)
    assert report.means == {"mean": None}
    out = io.StringIO()
    print_report(report, console=Console(file=out, width=200))
    assert "missing: 1 data sets" in out.getvalue()
    assert "other: gone.jsonl: no such file" in out.getvalue()


def test_scores_json_has_the_form_of_the_leaderboard(tmp_path):
    results = [
        scored(task("a"), group="image/cls")[1],
        scored(task("b"), group="video/ret", expected_queries=1000)[1],
        scored(task("c"), group="visdoc/vidore_v1")[1],
    ]
    write_report(tmp_path, make_report("mine", results, {}, IDENTITY), Submission(model_name="tiny"), 6, 512)
    saved = json.loads((tmp_path / "scores.json").read_text())
    keys = {
        "model_name", "model_backbone", "model_size", "embedding_dimension", "max_length_tokens", "model_release_date",
        "data_source", "url", "report_generated_date",
    }  # fmt: skip
    assert keys <= set(saved["metadata"])
    assert {group: list(sets) for group, sets in saved["metrics"].items()} == {
        "image": ["a"], "video": ["b"], "visdoc": ["c"]
    }  # fmt: skip
    a, b = saved["metrics"]["image"]["a"], saved["metrics"]["video"]["b"]
    assert (a["num_pred"], a["num_data"], b["num_pred"], b["num_data"]) == (12, 12, 12, 1000)
    names = [f"{m}@{k}" for m in ("hit", "ndcg_linear", "ndcg_exponential", "precision", "recall", "f1", "map", "mrr")
             for k in (1, 5, 10)]  # fmt: skip
    assert set(names) <= set(a)
    assert read_report(tmp_path).sets[1].expected_queries == 1000


def test_the_data_hash_sees_every_part_of_a_task():
    which = task()
    keys = [s.key for s in which.queries], [s.key for s in which.candidates]
    base = data_hash(which, *keys)
    variants = [
        (replace(which, version="2"), keys),
        (replace(which, main_metric="hit@5"), keys),
        (replace(which, qrels=[{0: 1.0}, *which.qrels[1:]]), keys),
        (replace(which, pools=[list(range(20))] * 12), keys),
        (which, (keys[0], keys[1][::-1])),
        (which, (keys[0][::-1], keys[1])),
    ]
    assert base not in {data_hash(other, *k) for other, k in variants}
    assert data_hash(replace(which, queries=[s.with_tcot("x") for s in which.queries]), *keys) == base


def test_raw_sides_are_an_error_or_counted():
    which = task()
    which = replace(which, candidates=[which.candidates[0].with_tcot(" "), *which.candidates[1:]])
    with pytest.raises(DataError, match=r"toy: 1 of 32 sides have no T-CoT in the data, the first is candidate 0"):
        count_raw(which, RenderOptions(), "the data")
    assert count_raw(which, RenderOptions(on_missing_tcot="raw"), "the data") == 1
    assert count_raw(which, RenderOptions(tcot="none"), "the data") == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"benchmark": "mmeb_v2", "tasks": []}, "--tasks: mmeb_v2 brings its own"),
        ({"benchmark": "mine", "tasks": []}, "--tasks: nothing to score"),
    ],
)
def test_jobs_that_do_not_go_together(flags, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        find_jobs(root=None, on_bad="raise", **flags)


# ---------------------------------------------------------------- compare


def test_the_interval_is_that_of_scipy():
    rng = np.random.default_rng(0)
    first = (rng.random(200) < 0.5).astype(float)
    second = np.where(rng.random(200) < 0.8, first, rng.random(200))
    ours = np.quantile(bootstrap(first, second, 20_000, np.random.default_rng(1)), [0.025, 0.975])
    theirs = scipy_bootstrap((second - first,), np.mean, n_resamples=20_000, method="percentile", rng=2)
    assert ours == pytest.approx(theirs.confidence_interval, abs=2e-3)


def test_nothing_differs_from_itself(tmp_path, capsys):
    a = evaluation(tmp_path / "a", 0)
    assert main(["compare", str(a), str(a), "--out", str(tmp_path / "c")]) == 0
    out = capsys.readouterr().out
    assert out.count("+0.0 … +0.0") == 3
    assert (tmp_path / "c/delta_s.png").is_file()


def test_the_mean_is_that_of_the_data_sets(tmp_path, capsys):
    a, b = evaluation(tmp_path / "a", 0), evaluation(tmp_path / "b", 5)
    assert main(["compare", str(a), str(b), "--resamples", "200"]) == 0
    out = capsys.readouterr().out
    gaps = [y.score - x.score for x, y in zip(read_report(a).sets, read_report(b).sets, strict=True)]
    assert f"{100 * np.mean(gaps):+.1f}" in next(line for line in out.splitlines() if "mean" in line)
    assert {p.name for p in (b / "compare_a").iterdir()} == {"delta_s.png", "evidence.png"}


def test_other_data_are_not_compared(tmp_path, capsys):
    a = evaluation(tmp_path / "a", 0)
    b = evaluation(tmp_path / "b", 0, version="2")
    assert main(["compare", str(a), str(b)]) == 2
    assert "one: version is 1 in" in capsys.readouterr().err
    c = evaluation(tmp_path / "c", 0, names=("one",))
    assert main(["compare", str(a), str(c)]) == 2
    assert "has scored two" in capsys.readouterr().err
    assert main(["compare", str(a), str(c), "--different_sets", "common"]) == 0


def test_a_changed_judgement_is_other_data(tmp_path):
    a, b = (load(evaluation(tmp_path / name, 0)) for name in "ab")
    changed = replace(b, sets=(replace(b.sets[0], data_hash="0"), *b.sets[1:]))
    with pytest.raises(ConfigError, match="one: data_hash is"):
        common_sets(tmp_path, tmp_path, a, changed, "raise")


def test_a_folder_without_an_evaluation(tmp_path, capsys):
    a = evaluation(tmp_path / "a", 0)
    assert main(["compare", str(a), str(tmp_path)]) == 1
    assert "no finished evaluation" in capsys.readouterr().err
    (tmp_path / "report.json").write_text('{"sets": 3}')
    assert main(["compare", str(a), str(tmp_path)]) == 1
    assert "broken" in capsys.readouterr().err
    (a / "queries/one.parquet").unlink()
    assert main(["compare", str(a), str(a)]) == 1
    assert "queries/one.parquet: cannot be read" in capsys.readouterr().err
