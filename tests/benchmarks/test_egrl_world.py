"""The table of EG-RL, at its smallest setting and by hand."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from embedrl.cli import main as cli
from embedrl.data.mix import MixRow

CONFIGS = Path(__file__).parents[2] / "configs"


def test_links_into_a_checkout_that_has_gone_lead_to_the_new_one(benchmark, tmp_path):
    link, place = benchmark("egrl_world_measure").link, tmp_path / "run/configs"
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    link(place, old)
    link(place, new)
    assert place.resolve() == old, "it leads somewhere"
    old.rmdir()
    link(place, new)
    assert place.resolve() == new


def test_the_report_of_egrl_world_by_hand(benchmark, tmp_path):
    """Two bases with two runs of EG-RL each, on two families of two and four queries."""
    module, line = benchmark("egrl_world_report"), dict.fromkeys(("format", "answer", "iou", "f1", "keyword_f1"), 0.5)
    (tmp_path / "val").mkdir()
    made = {"SFT 0-0": [[1, 0], [1, 0, 0, 0]], "SFT 1-0": [[0, 0], [1, 1, 0, 0]], "seen 0-0": [[0, 0], [0, 0, 0, 0]]}
    made |= {f"RL {base}-{seed}": [[1, 1], [1, 1, 1, seed]] for base in (0, 1) for seed in (0, 1)}
    for run, hits in made.items():
        row = {"hits": dict(zip(("a", "b"), hits, strict=True)), **line, "tokens a query": 7.0}
        (tmp_path / f"val/{run}.json").write_text(json.dumps({run.partition(" ")[0]: row}))
    kinds, pairs = {"seen": "input", "SFT": "SFT", "RL": "EG-RL", "absent": "EG-RL"}, [("RL", "SFT"), ("SFT", "RL")]
    module.report(tmp_path, "val", kinds, ("SFT", "RL"), [*pairs, ("seen", "seen"), ("absent", "SFT")], 50)
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
    assert found["gains"]["seen"]["SFT"]["value"] == -0.375, "by the base that both have"
    hits, words, gains, order = (tmp_path / "table.md").read_text().split("\n\n")
    assert hits.splitlines()[-1].startswith("| RL | 0.938 ± 0.115 | 1.000 ± 0.000 | 0.875 ± 0.230 | 4 |")
    assert [row.split(" | ")[0] for row in words.splitlines()[2:]] == ["| SFT", "| RL"], (
        "no evidence of what is not shown"
    )
    assert words.splitlines()[-1].endswith("| 7.0 ± 0.0 |")
    assert "| +0.000 ± 0.000 |" in gains.splitlines()[-1]
    assert [line.split(" | ")[-1] for line in order.splitlines()[2:]] == ["yes |", "no |", "undecided |"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_egrl_world(benchmark, tmp_path, monkeypatch):
    """In this process, to import torch once."""
    module, measure = benchmark("egrl_world"), benchmark("egrl_world_measure")

    def embedrl(*words, folder):
        if words[0] == "stages":  # two steps teach no T-CoTs for a second turn: its models are the first ones
            for stage, recipe in {"egrl_2": "reasoner", "embedder_1": "embedder"}.items():
                measure.link(folder / f"runs/alternation/{stage}/model", out / f"base/runs/quickstart_{recipe}/model")
            return
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            assert cli(list(words)) == 0

    for one in (module, benchmark("egrl_world_steps"), benchmark("egrl_world_turns")):
        monkeypatch.setattr(one, "embedrl", embedrl)
    out, main = tmp_path / "out", "EG-RL, with verifiable evidence (supervised)"
    small = {"out": str(out), "jobs": 1, "smallest": True}
    module.main(**small)
    rows = json.loads((out / "scores.json").read_text())["rows"]
    searched = [f"{main}, {name}" for name in module.SEARCHES]
    assert list(rows) == ["raw input", module.RAW, *[*module.FIXED][1:], main, *searched, module.PERFECT]
    assert {*measure.EVIDENCE, measure.TOKENS, "hit@1", "vqa", "video_qa"} <= rows[main][0].keys()
    assert rows[module.PERFECT][0]["iou"] == 1
    assert all(0 < rows[main][0][measure.TOKENS] < rows[name][0][measure.TOKENS] for name in searched)

    module.Bench(out, module.Data("test", 2, 8), module.SMALLEST, {}, main).run(module.TURNS, 0, 0)
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
    scores = out.parent / "elsewhere/test"
    shutil.copytree(out / "test", scores, ignore=shutil.ignore_patterns("*.vectors"))
    module.main(**small | {"out": str(scores.parent)}, rows=["main", "SFT from the perfect teacher"])
    assert not list(scores.parent.rglob("*.safetensors")), "scores that are there need no models"
    with pytest.raises(SystemExit, match="runs of another setting"):
        module.main(**small, teachers="perfect")
    with pytest.raises(SystemExit, match="--rows: no 'some'"):
        module.main(**small, rows=["main", "some"])


def test_the_second_turn_begins_with_the_main_row(benchmark, tmp_path, monkeypatch):
    """What `embedrl stages` is given; the stages themselves are those of a recipe that another test runs."""
    module, called = benchmark("egrl_world"), []
    monkeypatch.setattr(benchmark("egrl_world_turns"), "embedrl", lambda *words, folder: called.append((words, folder)))
    data, main = module.Data("test", 2, 8), "EG-RL, with verifiable evidence (supervised)"
    bench = module.Bench(tmp_path, data, {"egrl": []}, {}, main)
    for folder, recipe in (("base_base_3", "embedder"), ("base_base_3", "reasoner"), ("evidence_1_base_3", "egrl")):
        model = tmp_path / folder / f"runs/quickstart_{recipe}/model"
        model.mkdir(parents=True)
        (model / "seconds.json").write_text("1")
    policy, embedder = bench.turn(3, 1)
    [(words, folder)] = called
    assert words == ("stages", "--config", "stages.yaml")
    stages = yaml.safe_load((folder / "stages.yaml").read_text())
    assert [stage["name"] for stage in stages["stages"]] == ["tcots_1", "embedder_1", "egrl_2"]
    assert [folder / path for stage in stages["stages"][1:] for path in stage["makes"]] == [embedder, policy]
    first = [stage["flags"] for stage in stages["stages"]]
    assert (folder / first[0]["vlm.path"]).resolve() == tmp_path / "evidence_1_base_3/runs/quickstart_egrl/model"
    base = first[1]["model.init_args.backbone.init_args.path"]
    assert (folder / base).resolve() == tmp_path / "base_base_3/runs/quickstart_embedder/model"
    assert (folder / first[0]["mix"]).is_file()
    assert bench.second_embedder(3, 1) == embedder
    assert [stage["name"] for stage in yaml.safe_load((folder / "stages.yaml").read_text())["stages"]] == [
        "tcots_1",
        "embedder_1",
    ]


def test_the_second_embedder_is_that_of_the_quickstart():
    """Turns are measured by `configs/world/alternation.yaml`; the quickstart's list is the same but for its folders."""
    names = {
        "runs/alternation/embedder_0/": "runs/quickstart_embedder/",
        "runs/alternation/egrl_1/": "runs/quickstart_egrl/",
    }
    names |= {"runs/alternation/tcots_1": "runs/quickstart_second_embedder/tcots", "embedder_1/model": "model"}
    names |= {
        "runs/alternation": "runs/quickstart_second_embedder",
        "parts/mix/world_alternation": "parts/mix/world_second_embedder",
    }
    names |= {"name: tcots_1": "name: tcots", "name: embedder_1": "name: embedder"}
    files = (
        ("world/alternation.yaml", "quickstart/second_embedder.yaml"),
        ("world_alternation.yaml", "world_second_embedder.yaml"),
    )
    turns, own = ((CONFIGS / file).read_text() for file in files[0])
    mixes = [(CONFIGS / "parts/mix" / file).read_text() for file in files[1]]
    for old, new in names.items():
        turns, mixes[0] = turns.replace(old, new), mixes[0].replace(old, new)
    stages = [stage for stage in yaml.safe_load(turns)["stages"] if stage["name"] in ("tcots", "embedder")]
    assert stages == yaml.safe_load(own)["stages"]
    assert yaml.safe_load(mixes[0]) == yaml.safe_load(mixes[1])


def test_the_embedder_may_learn_from_the_reasoners_teacher(benchmark, tmp_path):
    """The pairs of the quickstart's mix in the generic annotator's words."""
    module = benchmark("egrl_world")
    [flag] = module.taught_by("annotator", tmp_path)
    name, _, mix = flag.partition("=")
    assert name == "--data.init_args.mix"
    parser = ArgumentParser()
    parser.add_argument("--mix", type=list[MixRow], sub_configs=True)
    mixes = (mix, module.CONFIGS / "parts/mix/world_two_teachers.yaml")
    mine, quickstart = (parser.instantiate(parser.parse_args([f"--mix={path}"])).mix for path in mixes)
    assert len(mine) == len(quickstart)
    assert {row.source.teacher for row in mine} == {"annotator"}
    ids = [[(row.label, row.weight, row.source[0].id) for row in rows] for rows in (mine, quickstart)]
    assert ids[0] == ids[1]


@pytest.mark.slow
def test_the_flags_of_rows_say_what_their_names_do(benchmark, capsys):
    """What rejection sampling and the partial zone change of the quickstart's recipe, as Lightning reads it."""
    module, found = benchmark("egrl_world"), {}
    for reward in module.REWARDED.values():
        if reward.flags:
            with pytest.raises(SystemExit) as ended:
                cli(["fit", "--config", str(module.QUICKSTART / "egrl.yaml"), *reward.flags, "--print_config"])
            assert not ended.value.code
            found[reward.name] = yaml.safe_load(capsys.readouterr().out)
    zone, *rejected = found["zone"], found["reject"], found["reject_evidence"]
    assert zone["data"]["init_args"]["zone_choices"] == 3
    assert [c["class_path"].rpartition(".")[2] for c in zone["trainer"]["callbacks"]].count("KeepInPartialZone") == 1
    assert len(zone["trainer"]["callbacks"]) == 1 + len(rejected[0]["trainer"]["callbacks"])
    for one in (row["model"]["init_args"] for row in rejected):
        assert (one["advantages"]["scale"], one["loss"]["init_args"]["kl_coefficient"]) == ("best", 0)
