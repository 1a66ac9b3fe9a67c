"""The benchmarks of who writes T-CoTs, who thinks and who judges, at their smallest setting."""

import json

import pytest
import torch
from benchmarked import rows


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_cross_play(benchmark, checkpoint, tmp_path):
    module, link = benchmark("cross_play"), benchmark("egrl_world_measure").link
    for folder in (
        "base/runs/quickstart_reasoner",
        "base/runs/quickstart_embedder",
        "outcome_only_0/runs/quickstart_egrl",
    ):
        for base in ("", "_base_1"):
            name, _, rest = folder.partition("/")
            link(tmp_path / f"{name}{base}/{rest}/model", checkpoint)
    small = {"runs": str(tmp_path), "out": str(tmp_path / "out"), "jobs": 1, "smallest": True}
    module.main(**small)
    found = [json.loads((tmp_path / f"out/test/base {base}.json").read_text()) for base in (0, 1)]
    assert found[0] == found[1], "the same models"
    assert found[0]["hits"]["reward"] == found[0]["hits"]["other"], "the same Embedder twice"
    pairs = found[0]["hits"]["reward"]
    assert len(pairs) == 9
    assert all(len(hits) == 2 for families in pairs.values() for hits in families.values())
    assert pairs["SFT / perfect"] == pairs["RL / perfect"], "the same Reasoner twice"
    assert found[0]["evidence"]["SFT"] == found[0]["evidence"]["RL"]
    hits, words = (tmp_path / "out/table.md").read_text().split("\n\n")
    assert len(hits.splitlines()) == 2 + 9
    assert all("| +0.000 (+0.000 to +0.000) |" in line for line in hits.splitlines()[2:])
    assert "| SFT | queries | iou |" in words
    before = (tmp_path / "out/test/base 0.json").stat().st_mtime_ns
    module.main(**small)
    assert (tmp_path / "out/test/base 0.json").stat().st_mtime_ns == before, "nothing is repeated"
    with pytest.raises(SystemExit, match="give two or more"):
        module.main(**small, bases=[0])
    with pytest.raises(SystemExit, match=r"base_base_2.*run benchmarks/egrl_world.py first"):
        module.main(**small, bases=[0, 2])


def test_the_tables_of_cross_play_by_hand(benchmark):
    """Two bases, one family of two queries: the second Embedder is right where the policy wrote the candidates."""
    module = benchmark("cross_play")
    pairs = [f"{one} / {two}" for one in module.WRITERS for two in module.WRITERS]
    none, all_right = {pair: {"a": [0, 0]} for pair in pairs}, {pair: {"a": [1, int("/ RL" in pair)]} for pair in pairs}
    table = module.hit_table({f"base {i}": {"reward": none, "other": all_right} for i in (0, 1)}, 50)
    rows = {row[0]: row[1:] for row in table[1:]}
    assert rows["SFT / RL"] == ["0.000", "1.000", "+1.000 (+1.000 to +1.000)", "0.00, 1.00"]
    assert rows["RL / SFT"][:2] == ["0.000", "0.500"]
    fits = [
        {"SFT": {side: {"format": {"a": share, "b": 1.0}, "iou": {"a": 0.5}} for side in module.SIDES}}
        for share in (0.0, 1.0)
    ]
    assert module.word_table(fits)[1:3] == [
        ["SFT", "queries", "format", "0.50", "1.00"],
        ["SFT", "queries", "iou", "0.50", ""],
    ]


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
