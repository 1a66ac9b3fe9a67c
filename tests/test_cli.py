"""The command table and its errors: one line on stderr, naming the flag and the cure."""

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from embedrl import cli
from embedrl.commands.parsing import explain
from embedrl.errors import ConfigError, DataError

QUICKSTART = str(Path(__file__).parents[1] / "configs/quickstart/embedder.yaml")


def test_help_lists_every_command(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert f"  {name} " in out
        assert command.help in out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_target_exists_and_is_documented(name):
    module, _, attribute = cli.COMMANDS[name].target.partition(":")
    assert getattr(importlib.import_module(module), attribute).__doc__


def test_a_group_lists_its_commands(capsys):
    assert cli.main(["data"]) == 0
    out = capsys.readouterr().out
    assert "data world" in out
    assert "validate" not in out


def test_a_commands_options_come_from_its_signature(capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(["data", "world", "--help"])
    assert done.value.code == 0
    out = capsys.readouterr().out
    assert "Number of pairs, twelve per page." in out
    assert "--split {train,val,test,test2}" in out


USAGE = {
    "unknown command": (["fitt"], "no such command: fitt; did you mean `embedrl fit`?"),
    "unknown command in a group": (
        ["data", "wrold"],
        "no such command: data wrold; did you mean `embedrl data world`?",
    ),
    "nothing like a command": (["xyz"], "no such command: xyz; `embedrl --help` lists the commands"),
    "missing file": (["fit", "--config", "nope.yaml"], "--config: File does not exist:"),
    "no model": (["fit"], "--model: required; give it on the command line or in a --config file"),
    "unknown flag": (
        ["fit", "--config", QUICKSTART, "--trainer.max_stepz", "3"],
        "--trainer.max_stepz: no such option; did you mean --trainer.max_steps?",
    ),
    "wrong type": (["fit", "--config", QUICKSTART, "--trainer.max_steps", "abc"], "--trainer.max_steps: "),
    "wrong type, nested": (
        ["fit", "--config", QUICKSTART, "--data.batch_size", "many"],
        "--data.batch_size: Expected a int, got many",
    ),
    "unknown class": (
        ["fit", "--config", QUICKSTART, "--model.backbone", "embedrl.Nope"],
        "--model.backbone: module 'embedrl' has no attribute 'Nope'; check the spelling of class_path",
    ),
    "unknown package": (["fit", "--config", QUICKSTART, "--data", "nowhere.Data"], "--data: No module named 'nowhere'"),
    "unknown argument": (
        ["fit", "--config", QUICKSTART, "--model.temprature", "3"],
        "--model.temprature: no such option; `embedrl fit --model.help CLASS` lists them",
    ),
    "missing part": (
        ["fit", "--config", QUICKSTART, "--model.backbone", "parts/nope.yaml"],
        "--model.backbone: no such file or class: parts/nope.yaml",
    ),
    "wrong flag of a function": (["data", "world", "--showw", "3"], "--showw: no such option; did you mean --show?"),
}


@pytest.mark.parametrize("case", USAGE)
def test_a_usage_error_is_one_line(case, capsys, monkeypatch):
    monkeypatch.delenv("EMBEDRL_DEBUG", raising=False)
    args, expected = USAGE[case]
    assert cli.main(args) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"embedrl: error: {expected}")


ABBREVIATED = {
    "recipes": (["recipes", "--ou", "x"], "--ou", "--out"),
    "fit": (["fit", "--config", QUICKSTART, "--trainer.max_step", "3"], "--trainer.max_step", "--trainer.max_steps"),
    "fit =": (["fit", "--config", QUICKSTART, "--trainer.max_step=3"], "--trainer.max_step", "--trainer.max_steps"),
    "fit, far from whole": (["fit", "--seed", "3"], "--seed", "--seed_everything"),
    "fit, a module's": (["fit", "--config", QUICKSTART, "--model.back", "x"], "--model.back", "--model.backbone"),
    "fit, a part's": (
        ["fit", "--config", QUICKSTART, "--model.init_args.loss.init_args.temp", "1"],
        "--model.loss.temp",
        "--model.loss.temperature",
    ),
    "fit, a dataclass's": (
        ["fit", "--config", QUICKSTART, "--data.render.tco", "none"],
        "--data.render.tco",
        "--data.render.tcot",
    ),
    "fit, run folder's": (["fit", "--checkpoint.every_n", "5"], "--checkpoint.every_n", "--checkpoint.every_n_steps"),
    "validate": (["validate", "--ckpt", "last"], "--ckpt", "--ckpt_path"),
    "test": (["test", "--trainer.limit_test", "3"], "--trainer.limit_test", "--trainer.limit_test_batches"),
    "predict": (["predict", "--return_pred", "no"], "--return_pred", "--return_predictions"),
    "stages": (["stages", "--ou", "x"], "--ou", "--out"),
    "plan": (["plan", "--assume.tflop", "3"], "--assume.tflop", "--assume.tflops"),
    "export": (["export", "--ou", "x"], "--ou", "--out"),
    "merge": (["merge", "--ou", "x"], "--ou", "--out"),
    "mine": (["mine", "--ou", "x"], "--ou", "--out"),
    "gain": (["gain", "--ou", "x"], "--ou", "--out"),
    "judge check": (["judge", "check", "--rotation", "3"], "--rotation", "--rotations"),
    "reason": (["reason", "--checkpoin", "x"], "--checkpoin", "--checkpoint"),
    "annotate": (["annotate", "--ou", "x"], "--ou", "--out"),
    "filter": (["filter", "--ou", "x"], "--ou", "--out"),
    "split": (["split", "--ou", "x"], "--ou", "--out"),
    "eval": (["eval", "--render.tco", "none"], "--render.tco", "--render.tcot"),
    "compare": (["compare", "a", "b", "--ou", "x"], "--ou", "--out"),
    "boundary": (["boundary", "--succes", "x"], "--succes", "--success"),
    "index build": (["index", "build", "x", "--ou", "x"], "--ou", "--out"),
    "index add": (["index", "add", "x", "y", "--batc", "1"], "--batc", "--batch"),
    "index stats": (["index", "stats", "x", "--hel"], "--hel", "--help"),
    "index compact": (["index", "compact", "x", "--ann_row", "300"], "--ann_row", "--ann_rows"),
    "index delete": (["index", "delete", "x", "--wher", "1"], "--wher", "--where"),
    "index verify": (["index", "verify", "x", "--querie", "1"], "--querie", "--queries"),
    "search": (["search", "x", "--tex", "x"], "--tex", "--text"),
    "serve": (["serve", "x", "--por", "1"], "--por", "--port"),
    "answer": (["answer", "x", "--questio", "x"], "--questio", "--question"),
    "data import": (["data", "import", "x", "--ou", "x"], "--ou", "--out"),
    "init": (["init", "x", "--ou", "x"], "--ou", "--out"),
    "data pages": (["data", "pages", "--roo", "x"], "--roo", "--root"),
    "data stats": (["data", "stats", "--ou", "x"], "--ou", "--out"),
    "data world": (["data", "world", "--sho=3"], "--sho", "--show"),
    "completion": (["completion", "bash", "--hel"], "--hel", "--help"),
}


def test_every_command_has_an_abbreviated_option_in_the_table():
    assert {case.partition(",")[0].removesuffix(" =") for case in ABBREVIATED} >= {*cli.COMMANDS}


@pytest.mark.parametrize("case", ABBREVIATED)
def test_an_abbreviated_option_is_refused(case, capsys):
    args, flag, whole = ABBREVIATED[case]
    assert cli.main(args) == 2
    assert capsys.readouterr().err == f"embedrl: error: {flag}: no such option; did you mean {whole}?\n"


YAML = {
    "syntax": ("model: [\n  a:", "not valid YAML: while parsing"),
    "interpolation": ("seed_everything: ${nope.x}", "--seed_everything: Interpolation key"),
    "environment": (
        "trainer: {default_root_dir: '${oc.env:EMBEDRL_NOT_SET}'}",
        '--trainer.default_root_dir: KeyError raised while resolving interpolation: "Environment variable',
    ),
    "unknown key": (
        "trainer: {max_stepz: 3}",
        "--trainer.max_stepz: no such option; did you mean --trainer.max_steps?",
    ),
}


@pytest.mark.parametrize("case", YAML)
def test_a_wrong_yaml_is_one_line(case, tmp_path, capsys):
    text, expected = YAML[case]
    path = tmp_path / "overlay.yaml"
    path.write_text(text)
    assert cli.main(["fit", "--config", QUICKSTART, "--config", str(path)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert expected in err


def test_a_missing_checkpoint_is_one_line(tmp_path, capsys):
    args = ["fit", "--config", QUICKSTART, "--trainer.default_root_dir", str(tmp_path)]
    assert cli.main([*args, "--ckpt_path", "last"]) == 1
    assert "--ckpt_path last: no last.ckpt under" in capsys.readouterr().err
    assert cli.main([*args, "--ckpt_path", "nope.ckpt"]) == 1
    assert "--ckpt_path: no such file: nope.ckpt" in capsys.readouterr().err


def test_exit_codes_and_debug(monkeypatch, capsys):
    def raising(error):
        def run(_):
            raise error

        return run

    monkeypatch.setattr(cli, "_dispatch", raising(DataError("a/1: broken\nsecond line")))
    monkeypatch.delenv("EMBEDRL_DEBUG", raising=False)
    assert cli.main([]) == 1
    assert capsys.readouterr().err == "embedrl: error: a/1: broken second line\n"
    monkeypatch.setattr(cli, "_dispatch", raising(KeyError("a bug")))
    with pytest.raises(KeyError):
        cli.main([])
    monkeypatch.setattr(cli, "_dispatch", raising(ConfigError("x")))
    monkeypatch.setenv("EMBEDRL_DEBUG", "1")
    with pytest.raises(ConfigError):
        cli.main([])


def test_explain_takes_the_deepest_complaint():
    message = """Parser key "model":
  Does not validate against any of the Union subtypes
  Errors:
    - Problem with given class_path 'stub.Mod':
        Parser key "backbone":
          Problem with given class_path 'stub.A':
            Parser key "size":
              Expected a <class 'int'>. Got value: x
    - Expected a <class 'NoneType'>
  Given value: NestedArg(key='backbone.size', val='x')"""
    assert explain(message, [], "embedrl fit").startswith("--model.backbone.size: Expected a int, got x")


WAITING = """
import ctypes, runpy, sys
try:
    {call}
except SystemExit as done:
    assert done.code == 0
assert "torch" not in sys.modules
ctypes.CDLL({library!r})
"""


@pytest.mark.parametrize(
    ("call", "own", "effective"),
    [
        ("from embedrl import cli; cli.main(['--help'])", {}, "PASSIVE"),
        ("sys.argv = ['embedrl', '--help']; runpy.run_module('embedrl', run_name='__main__')", {}, "PASSIVE"),
        ("from embedrl import cli; cli.main(['--help'])", {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
    ],
    ids=["main", "python -m embedrl", "the user's own value"],
)
def test_threads_that_wait_sleep(call, own, effective):
    """What torch's own OpenMP library reads when it is loaded, after a command has begun."""
    libraries = [*Path(importlib.util.find_spec("torch").origin).parents[1].glob("torch*/**/libgomp*.so*")]
    if not libraries:
        pytest.skip("this torch brings no GNU OpenMP")
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    script = WAITING.format(call=call, library=str(libraries[0]))
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment | own | {"OMP_DISPLAY_ENV": "true"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"OMP_WAIT_POLICY = '{effective}'" in done.stderr
