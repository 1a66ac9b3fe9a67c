"""The benchmarks of who writes T-CoTs, who thinks and who judges, at their smallest setting."""

import json

import pytest
import torch
from benchmarked import rows


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
    totals = rows(tmp_path, "judges_totals_by_family")
    assert [row["rewards"] for row in totals[::2]] == ["outcome_only", "text_judge_code_weights", "text_judge"]
    assert all(0 < row["std in a group"] <= 1 for row in totals)
