"""The comparison of one model with two, at its smallest setting and by hand."""

import json

import pytest


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_one_or_two(benchmark, tmp_path):
    """A model with words and one with latent steps, at their smallest; what is finished is not repeated."""
    module, systems = benchmark("one_or_two"), ["UME-R1, SFT", "UME-R1, SFT, teacher's T-CoTs", "latent"]
    module.main(out=str(tmp_path), systems=systems, smallest=True, jobs=1)
    scores = json.loads((tmp_path / "scores.json").read_text())
    modes = ["UME-R1, SFT, disc", "UME-R1, SFT, gen", "UME-R1, SFT, oracle"]
    assert list(scores) == [*modes, *systems[1:]]
    disc, gen, oracle, given, latent = (runs["0"] for runs in scores.values())
    for row in (disc, gen, oracle, given, latent):
        assert set(row["hits"]) == {"vqa", "video_qa"}
        assert row["training"]["steps"] == 2
        assert row["training"]["flops"] > 1e9
        assert row["ms"] is None if row is given else row["ms"] > 0
    assert oracle["hits"] == {name: list(map(max, disc["hits"][name], gen["hits"][name])) for name in gen["hits"]}
    assert (disc["tokens"], disc["latent"], disc["thinking"]) == (0, 0, 0)
    assert 0 < gen["tokens"] <= 4
    assert (given["tokens"], given["thinking"]) == (0, 0)
    assert (latent["tokens"], latent["latent"], latent["thinking"]) == (0, 4, 1)
    assert (tmp_path / "plot.png").is_file()
    files = [file for folder in ("seed 0", "test", "timing") for file in tmp_path.glob(f"{folder}/*.json")]
    assert len(files) == 7
    before = {path: path.stat().st_mtime_ns for path in files}
    module.main(out=str(tmp_path), systems=systems, smallest=True, jobs=1)
    assert {path: path.stat().st_mtime_ns for path in files} == before
    with pytest.raises(SystemExit, match="--systems: no 'UME'"):
        module.main(out=str(tmp_path), systems=["UME"], smallest=True)


def test_the_report_of_one_or_two(benchmark, tmp_path):
    """Means over seeds, families and queries, computed by hand."""
    module = benchmark("one_or_two_report")
    rows = {
        "one": ({"a": [1.0, 0.0], "b": [1.0, 1.0]}, {"a": [0.0, 0.0], "b": [1.0, 1.0]}),
        module.BESIDE: ({"a": [1.0, 1.0], "b": [1.0, 1.0]}, {"a": [1.0, 1.0], "b": [1.0, 1.0]}),
    }
    (tmp_path / "test").mkdir()
    (tmp_path / "timing").mkdir()
    for name, hits in rows.items():
        for seed, own in enumerate(hits):
            row = {"hits": own, "tokens": 10.0 + seed, "latent": 0, "thinking": 0.5}
            content = {"rows": {name: row}, "training": {"flops": 2e12, "steps": 300, "cpu_seconds": 120}}
            (tmp_path / f"test/{name} {seed}.json").write_text(json.dumps(content))
        (tmp_path / f"timing/{name}.json").write_text(json.dumps({name: 2.5}))
    module.report(tmp_path, "test", ["one", module.BESIDE, "absent"])
    text = (tmp_path / "table.md").read_text()
    assert "| one | 2 | 62.5 (" in text
    assert ") | -37.5 (" in text
    assert ") | 10.5 | 0 | 50 | 2.5 | 2 | 300 | 2.0 |" in text
    assert f"| {module.BESIDE} | 2 | 100.0 (100.0 to 100.0) |  | 10.5 |" in text
    assert "| one | 25.0 (" in text
    assert "| 100.0 (100.0 to 100.0) |" in text


def test_no_two_jobs_train_the_same(benchmark):
    module = benchmark("one_or_two")
    chains = module.chains(list(module.SYSTEMS))
    assert sorted(name for chain in chains for name in chain) == sorted(module.SYSTEMS)
    taken = [{one for name in chain for one in module.SYSTEMS[name].trainings} for chain in chains]
    assert sum(map(len, taken)) == len(set().union(*taken)) == len(module.TRAININGS)
    assert ["Embed-RL, SFT", "Embed-RL, EG-RL", "Embed-RL, teacher's T-CoTs"] in chains
    assert ["latent"] in chains
