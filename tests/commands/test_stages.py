"""`embedrl stages`: what is finished is skipped, what was interrupted goes on, what has changed is refused."""

import json
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml

from embedrl.cli import main
from embedrl.commands import stages as module

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def ran(monkeypatch):
    """The command lines that would be run; each makes what it is told to by `--out`."""
    lines = []

    def run(words):
        lines.append(list(words))
        if "--fails" in words:
            return 3
        if "--out" in words:
            Path(words[words.index("--out") + 1]).mkdir(parents=True, exist_ok=True)
        return 0

    monkeypatch.setattr(module, "_run", run)
    return lines


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """Writes a list of stages: a training on a recipe that names a part, and an export."""
    monkeypatch.chdir(tmp_path)
    Path("part.yaml").write_text("x: 1\n")
    Path("recipe.yaml").write_text("model: part.yaml\n")

    def write(**changes):
        stages = [
            {"name": "a", "command": "fit", "config": ["recipe.yaml"], "flags": {"trainer.max_steps": 2}},
            {"name": "b", "command": "export", "flags": {"out": "out/b"}, "makes": ["out/b"]},
        ]
        stages[1] |= changes
        Path("list.yaml").write_text(yaml.safe_dump({"out": "out", "stages": stages}))
        return ["stages", "--config", "list.yaml"]

    return write


def test_each_stage_is_run_once(listed, ran):
    assert main(listed()) == 0
    fit = ["fit", "--config", "recipe.yaml", "--trainer.default_root_dir", "out/a", "--trainer.max_steps", "2"]
    assert ran == [fit, ["export", "--out", "out/b"]]
    assert main(listed()) == 0
    assert len(ran) == 2


def test_a_failure_ends_the_list_and_the_stage_runs_again(listed, ran, capsys):
    assert main(listed(flags={"fails": ""}, makes=[])) == 1
    assert "stage b ended with exit code 3" in capsys.readouterr().err
    assert main(listed(flags={"fails": ""}, makes=[])) == 1
    assert [words[0] for words in ran] == ["fit", "export", "export"]


def test_a_fit_that_was_interrupted_goes_on(listed, ran, monkeypatch):
    monkeypatch.setattr(module, "_run", lambda words: 143)
    with pytest.raises(SystemExit) as done:
        main(listed())
    assert done.value.code == 143
    checkpoint = Path("out/a/version_0/checkpoints/last.ckpt")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    again = []
    monkeypatch.setattr(module, "_run", lambda words: again.append(list(words)) or 1)
    assert main(listed()) == 1
    assert again[0][-4:] == ["--ckpt_path", "last", "--trainer.max_steps", "2"]


@pytest.mark.parametrize("file", ["recipe.yaml", "part.yaml"])
def test_what_has_changed_is_refused(file, listed, ran, capsys):
    assert main(listed()) == 0
    Path(file).write_text(Path(file).read_text() + "y: 2\n")
    assert main(listed()) == 2
    assert "stage a is not as it was when it began" in capsys.readouterr().err
    assert len(ran) == 2


def test_a_later_stage_may_change_alone(listed, ran, capsys):
    assert main(listed()) == 0
    assert main(listed(flags={"out": "out/c"}, makes=["out/c"])) == 2
    assert "stage b is not as it was" in capsys.readouterr().err


def test_what_a_stage_must_leave_behind(listed, ran, capsys):
    assert main(listed(makes=["out/gone"])) == 1
    assert "stage b ended well, but out/gone is not there" in capsys.readouterr().err
    assert main(listed(makes=["out/gone"])) == 1, "it is not finished"
    assert main(listed()) == 2


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        ([], "give at least one stage"),
        ([{"name": "a", "command": "export"}] * 2, "'a' occurs twice"),
        ([{"name": "a/b", "command": "export"}], "'a/b' is no name of a folder"),
        ([{"name": "a", "command": "dance"}], "command"),
        ([{"name": "a", "command": "fit", "config": ["gone.yaml"]}], "stage a: --config gone.yaml: no such file"),
    ],
)
def test_wrong_lists(stages, told, tmp_path, monkeypatch, capsys, ran):
    monkeypatch.chdir(tmp_path)
    assert main(["stages", "--out", "out", "--stages", json.dumps(stages)]) == 2
    assert told in capsys.readouterr().err
    assert ran == []


def test_an_overlay_lies_over_the_recipe(listed, ran):
    assert main(listed(overlay="trainer: {max_steps: 1}")) == 0
    assert ran[1][:3] == ["export", "--config", "out/b.yaml"]
    assert Path("out/b.yaml").read_text() == "trainer: {max_steps: 1}"


def test_a_signal_is_passed_on_and_its_end_waited_for(monkeypatch, tmp_path):
    """The command ends with a code of its own, half a second after the signal."""
    script = tmp_path / "slow.py"
    script.write_text(
        "import signal, sys, time, os\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), sys.exit(143)))\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(20)\n"
    )
    popen = module.subprocess.Popen
    monkeypatch.setattr(module.subprocess, "Popen", lambda words, **how: popen([sys.executable, str(script)], **how))
    before, started = signal.getsignal(signal.SIGTERM), time.monotonic()
    assert module._run(["fit"]) == 143
    assert time.monotonic() - started < 15
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_recipe_of_alternation_runs_in_two_steps_each(tmp_path, monkeypatch):
    """In this process, to import torch once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_run", lambda words: main(list(words)))
    recipe = yaml.safe_load((CONFIGS / "world/alternation.yaml").read_text())
    recipe["stages"].pop()  # as the first turn of EG-RL
    mix = [{"source": {"class_path": "embedrl.data.world.WorldSource", "init_args": {"family": "vqa", "size": 6}}}]
    small = {
        "embedder": {"data.init_args.batch_size": 4, "data.init_args.sub_batch_size": 2},
        "reasoner": {"data.init_args.batch_size": 4},
        "egrl": {
            "data.init_args.batch_size": 4, "model.init_args.group_size": 2,
            "model.init_args.rollout.max_new_tokens": 4,
        },
    }  # fmt: skip
    for stage in recipe["stages"]:
        if stage["command"] == "fit":
            if stage["name"] == "embedder_1":  # of the one family below
                stage["flags"]["data.init_args.mix"] = "runs/alternation/tcots_1/mix.yaml"
            stage["flags"] = {
                **stage.get("flags", {}), **small[stage["name"].split("_")[0]], "trainer.max_steps": 2,
                "trainer.limit_val_batches": 0, "trainer.enable_progress_bar": False,
            }  # fmt: skip
        else:  # a policy of two steps writes no T-CoT: the pairs keep those of a teacher
            stage["flags"]["mix"] = json.dumps(mix)
    Path("list.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["stages", "--config", "list.yaml"]) == 0
    state = json.loads(Path("runs/alternation/stages.json").read_text())
    assert list(state) == [stage["name"] for stage in recipe["stages"]]
    assert all(one["seconds"] is not None for one in state.values())
    before = Path("runs/alternation/embedder_1/model/model.safetensors").stat().st_mtime_ns
    assert main(["stages", "--config", "list.yaml"]) == 0
    assert Path("runs/alternation/embedder_1/model/model.safetensors").stat().st_mtime_ns == before
