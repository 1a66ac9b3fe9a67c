"""Secrets stay where they are, names from outside import nothing, and nobody's words steer the terminal."""

import io
import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

from embedrl.cli import main
from embedrl.commands.fit import TrainingParser
from embedrl.errors import CheckpointError, DataError
from embedrl.training.checkpoints import check_classes, hyperparameters
from embedrl.training.embedder import EmbedderModule
from embedrl.utils import secrets
from embedrl.utils.console import make_console, one_line, tell
from embedrl.utils.secrets import hide, watch_environment, without_secrets
from embedrl.utils.versions import environment

ADDRESS = "http://user:hunter2@127.0.0.1:9/v1"
KEY = "sk-nobody-may-see-this"


class Service:
    """Something that a configuration describes."""

    def __init__(self, base_url: str, extra: dict[str, str] | None = None, path: str = "") -> None:
        self.base_url, self.extra, self.path = base_url, extra, path


@pytest.fixture
def parsed(tmp_path, monkeypatch):
    """The parser of a configuration that takes secrets from outside, and what it was parsed to."""
    monkeypatch.setenv("MY_API_KEY", KEY)
    monkeypatch.setenv("JUDGE_URL", ADDRESS)
    monkeypatch.setenv("MODELS", "/srv/models-of-the-house")
    file = tmp_path / "config.yaml"
    file.write_text(
        yaml.safe_dump({
            "service": {
                "base_url": "${oc.env:JUDGE_URL}",
                "extra": {
                    "user": "${oc.env:MY_API_KEY}",
                    "password": "hunter2",
                    "header": "Bearer ${oc.env:MY_API_KEY}",
                },
                "path": "${oc.env:MODELS}/qwen",
            }
        })
    )  # fmt: skip
    monkeypatch.setattr(secrets, "_read", {})
    watch_environment()
    parser = TrainingParser(parser_mode="omegaconf+")
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Service, "service")
    return parser, parser.parse_args(["--config", str(file)])


def test_a_dumped_configuration_holds_no_secret_and_can_be_read_again(parsed, tmp_path):
    parser, config = parsed
    assert config.service.extra["user"] == KEY
    parser.save(config, tmp_path / "saved.yaml")
    text = (tmp_path / "saved.yaml").read_text()
    assert KEY not in text
    assert "hunter2" not in text
    assert yaml.safe_load(text)["service"]["path"] == "/srv/models-of-the-house/qwen"
    again = parser.parse_args(["--config", str(tmp_path / "saved.yaml")])
    assert again.service.base_url == ADDRESS
    assert again.service.extra["header"] == f"Bearer {KEY}"


def test_a_checkpoint_holds_no_secret(parsed):
    _, config = parsed
    arguments = {"judge": Service(**config.service.as_dict())}
    held = hyperparameters(arguments)
    assert KEY not in json.dumps(held)
    assert "hunter2" not in json.dumps(held)
    assert held["judge"]["init_args"]["base_url"] == "http://***@127.0.0.1:9/v1"
    assert held["judge"]["init_args"]["path"] == "/srv/models-of-the-house/qwen"


def test_neither_provenance_nor_an_error_does(parsed, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["embedrl", "fit", f"--judge.base_url={ADDRESS}", f"--judge.key={KEY}"])
    assert "hunter2" not in json.dumps(environment())
    assert KEY not in json.dumps(environment())
    tell(f"error: {ADDRESS} does not like {KEY}")
    assert capsys.readouterr().err == "embedrl: error: http://***@127.0.0.1:9/v1 does not like ***\n"


KEPT = [
    {"api_key_env": "OPENAI_API_KEY"},
    {"emb_token": "<emb>", "max_tokens": "5", "key": "value", "keys": ["a"]},
    {"base_url": "http://127.0.0.1:8000/v1", "mail": "me@example.org", "path": "a@b/c://d"},
    {"password": "", "secret": None, "lr": 0.1},
]


@pytest.mark.parametrize("value", KEPT)
def test_what_is_no_secret_stays(value):
    assert without_secrets(value) == value


@pytest.mark.parametrize(
    "key", ["api_key", "apikey", "API-Key", "password", "client_secret", "Authorization", "auth_token"]
)
def test_what_is_called_a_secret_is_one(key):
    assert without_secrets({"extra": [{key: "x1"}]}) == {"extra": [{key: "***"}]}


def test_a_secret_on_a_command_line_is_hidden():
    words = ["--judge.api_key=sk-1", '{"extra": {"api_key": "sk-1", "n": 1}}', "--api_key_env=KEY", "--password=${x}"]
    shown = ["--judge.api_key=***", '{"extra": {"api_key": "***", "n": 1}}', "--api_key_env=KEY", "--password=${x}"]
    assert without_secrets(words) == shown


def test_a_secret_in_a_long_text_is_hidden():
    assert hide(f"got {{'base_url': '{ADDRESS}'}} and {ADDRESS}") == (
        "got {'base_url': 'http://***@127.0.0.1:9/v1'} and http://***@127.0.0.1:9/v1"
    )


STEERING = [
    ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
    ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
    ("a\x08b\x9b2J", r"a\x08b\x9b2J"),
    ("gnp.\u202etxt", r"gnp.\u202etxt"),
    ("half \ud83d", r"half \ud83d"),
    ("two\r\nlines\tand more", "two lines and more"),
    ("किला naïve 日本 👩‍🔬", "किला naïve 日本 👩‍🔬"),
]


@pytest.mark.parametrize(("text", "shown"), STEERING)
def test_nobodys_words_steer_the_terminal(monkeypatch, capsys, text, shown):
    from embedrl import cli

    def fails(*_: object) -> None:
        raise DataError(f"{text}: broken")

    assert one_line(text) == shown
    monkeypatch.setattr(cli, "_run", fails)
    assert main(["eval"]) == 1
    assert capsys.readouterr().err == f"embedrl: error: {shown}: broken\n"


def test_names_in_a_table_do_not_steer_either(capsys):
    from rich.table import Table

    table = Table("\x1b[2Jname")
    table.add_row("a\x1b[31m set")
    make_console().print(table)
    make_console().print("wrote \x1b[2J")
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert told.count(r"\x1b[") == 3


def test_a_path_that_steers_is_shown_escaped(tmp_path, capsys):
    assert main(["export", "--checkpoint", str(tmp_path / "\x1b[2J.ckpt"), "--out", str(tmp_path / "out")]) == 1
    assert r"\x1b[2J.ckpt: no such file" in capsys.readouterr().err


FOREIGN = ["trap_in_the_folder.Loss", "os.system", "__main__.Loss", "no_such_package_at_all.Loss", "..Loss", ""]
OURS = ["embedrl.losses.InfoNCE", "torch.optim.AdamW", "timm.optim.Muon"]


@pytest.fixture
def trap(tmp_path, monkeypatch) -> Path:
    """A module in the current folder, which is on the path, as for `python -m embedrl`."""
    (tmp_path / "trap_in_the_folder.py").write_text(
        "from pathlib import Path\nPath('sprung').touch()\nclass Loss: ...\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend("")
    return tmp_path


@pytest.mark.parametrize("path", FOREIGN)
def test_a_checkpoint_imports_nothing_from_the_current_folder(trap, path):
    with pytest.raises(CheckpointError, match=r"^x: names .*, which is of no installed package"):
        check_classes({"rows": [{"loss": {"class_path": path}}]}, "x")
    assert not (trap / "sprung").exists()


@pytest.mark.parametrize("path", OURS)
def test_installed_packages_may_be_named(trap, path):
    check_classes({"rows": [{"loss": {"class_path": path}}]}, "x")


def test_a_foreign_checkpoint_is_refused_by_export(trap, capsys):
    arguments = {"backbone": {"class_path": "trap_in_the_folder.Loss"}}
    torch.save({"state_dict": {}, "hyper_parameters": arguments}, trap / "last.ckpt")
    assert main(["export", "--checkpoint", "last.ckpt", "--out", "out"]) == 1
    assert "names trap_in_the_folder.Loss, which is of no installed package" in capsys.readouterr().err
    assert not (trap / "sprung").exists()
    assert not (trap / "out").exists()


HOSTILE = {
    "a class": {"hyper_parameters": {"backbone": {"class_path": "trap_in_the_folder.Loss"}}},
    "under an old name": {"hyper_parameters": {"backbone": {}}, "hparams": {"loss": {"class_path": "os.system"}}},
    "a builder": {"hyper_parameters": {"backbone": {}, "_instantiator": "trap_in_the_folder.Loss"}},
    "a builder of all": {"hyper_parameters": {"backbone": {}}, "module_arguments": {"_instantiator": "os.system"}},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_python_loads_no_foreign_checkpoint_either(trap, case):
    torch.save({"state_dict": {}, **HOSTILE[case]}, trap / "last.ckpt")
    for source in (trap / "last.ckpt", io.BytesIO((trap / "last.ckpt").read_bytes())):
        with pytest.raises(CheckpointError, match=r"names .*(no installed package|to build the module)"):
            EmbedderModule.load_from_checkpoint(source)
    assert not (trap / "sprung").exists()


def test_a_class_that_the_program_has_imported_may_be_named(trap):
    __import__("trap_in_the_folder")
    try:
        check_classes({"class_path": "trap_in_the_folder.Loss"}, "x")
        with pytest.raises(CheckpointError):
            check_classes({"class_path": "trap_in_the_folder.Path.cwd"}, "x")
    finally:
        del sys.modules["trap_in_the_folder"]
