"""The completion scripts work in a shell, without starting a program."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from jsonargparse import capture_parser

from embedrl import cli
from embedrl.commands.completion import CLASSES

ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
PATH=/nonexistent
_shtab_embedrl embedrl "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""What bash does at a press of the tab key, with no program to be found."""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """The script of each shell."""
    folder = tmp_path_factory.mktemp("completion")
    with pytest.MonkeyPatch.context() as patch:
        for shell in ("bash", "zsh", "fish"):
            with (folder / shell).open("w") as file:
                patch.setattr("sys.stdout", file)
                assert cli.main(["completion", shell]) == 0
    return folder


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_reads_its_script(shell, scripts):
    text = (scripts / shell).read_text()
    for word in ("trainer.max_steps", "world", "annotate"):
        assert word in text
    assert len(text) < 400_000
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(scripts / shell)], check=True)


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["va"], {"validate"}),
        ([""], {name.split()[0] for name in cli.COMMANDS}),
        (["data", ""], {"import", "pages", "stats", "world"}),
        (["fit", "--trainer.max_s"], {"--trainer.max_steps"}),
        (["fit", "--ckpt"], {"--ckpt_path"}),
        (["fit", "--model.gradient_ca"], {"--model.gradient_cache"}),
        (["fit", "--data.render.tc"], {"--data.render.tcot"}),
        (["fit", "--checkpoint.mode", ""], {"max", "min"}),
        (["validate", "--verb"], {"--verbose"}),
        (["plan", "--assume.tf"], {"--assume.tflops"}),
        (["eval", "--render.tc"], {"--render.tcot"}),
        (["data", "world", "--split", "t"], {"train", "test", "test2"}),
        (["export", "--adapter", ""], {"true", "false"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
        (["fit", "--config", "conf"], {"confs", "config.yaml"}),
        (["reason", "--image", "conf"], {"confs", "config.yaml"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bash(words, expected, scripts, tmp_path):
    (tmp_path / "confs").mkdir()
    (tmp_path / "config.yaml").touch()
    command = ["bash", "--norc", "-c", ASK, "ask", str(scripts / "bash"), "embedrl", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert {word.rstrip() for word in done.stdout.splitlines()} - {"-h", "--help", "--version"} == expected
    assert done.stderr == ""
    assert "embedrl" in subprocess.run(
        ["bash", "--norc", "-c", f"source {scripts / 'bash'}; complete -p"], capture_output=True, text=True, check=True
    ).stdout  # fmt: skip


def test_every_command_offers_all_options_of_its_parser(scripts):
    text = (scripts / "bash").read_text()
    for name in cli.COMMANDS:
        parser = capture_parser(cli._run, name, [])
        training = parser._subcommands_action
        parser = training._name_parser_map.get(name, training._name_parser_map["fit"]) if training else parser
        line = next(
            x for x in text.splitlines() if x.startswith(f"_shtab_embedrl_{name.replace(' ', '_')}_option_strings")
        )
        offered = {*line.partition("(")[2].rstrip(")").split()}
        assert offered >= {
            flag for action in parser._actions for flag in action.option_strings if action.help != "==SUPPRESS=="
        }


def test_the_class_arguments_are_those_of_all_our_modules():
    """A module or datamodule that a recipe names is among the classes whose arguments are offered."""
    for key, paths in CLASSES.items():
        recipes = (Path(__file__).parents[2] / "configs/quickstart").glob("*.yaml")
        trainings = [content for recipe in recipes if "stages" not in (content := yaml.safe_load(recipe.read_text()))]
        named = {training[key]["class_path"] for training in trainings}
        assert named == {*paths}
