"""Class names on the command line, and one line for what is wrong with them."""

from pathlib import Path

import pytest
from recipes import printed

from embedrl.cli import main
from embedrl.commands.parsing import with_class_paths

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart"

WORDS = {
    "a flag's value": (["--model", "EmbedderModule"], ["--model", "embedrl.EmbedderModule"]),
    "in one word": (["--model.loss=InfoNCE"], ["--model.loss=embedrl.losses.InfoNCE"]),
    "in a room of its own": (["--data.val+", "WorldTasks"], ["--data.val+", "embedrl.data.world.WorldTasks"]),
    "a whole path": (["--model", "my_package.EmbedderModule"], ["--model", "my_package.EmbedderModule"]),
    "no class": (["--out", "model"], ["--out", "model"]),
    "not a flag's value": (["InfoNCE", "--out=a", "InfoNCE"], ["InfoNCE", "--out=a", "InfoNCE"]),
    "empty": ([], []),
}


@pytest.mark.parametrize("case", WORDS)
def test_a_public_class_goes_by_its_name(case):
    words, expected = WORDS[case]
    assert with_class_paths(words) == expected


def test_short_names_build_the_classes(capsys):
    args = [
        "--config",
        QUICKSTART / "embedder.yaml",
        "--model",
        "EmbedderModule",
        "--model.backbone",
        "OpenClipBackbone",
    ]
    config = printed(capsys, *args, "--model.backbone.init_args.model", "embedrl:lite0_minilm")
    assert config["model"]["class_path"] == "embedrl.EmbedderModule"
    assert config["model"]["init_args"]["backbone"]["class_path"] == "embedrl.OpenClipBackbone"


def test_help_lists_the_three_modules(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    listed = "".join(capsys.readouterr().out.split())
    for module in ("EmbedderModule", "ReasonerModule", "EGRLModule"):
        assert f"embedrl.{module}" in listed
    for module in ("EmbedderDataModule", "ReasonerDataModule", "EGRLDataModule"):
        assert f"embedrl.{module}" in listed


UNKNOWN = {
    "--model": ("EmbedderModul", "--model: no class of that name: EmbedderModul; did you mean EmbedderModule?"),
    "--model.loss": ("InfoNC", "--model.loss: no class of that name: InfoNC; did you mean InfoNCE?"),
    "--model.backbone": ("Zzz", "--model.backbone: no class of that name: Zzz; give a public name of embedrl's"),
}


@pytest.mark.parametrize("flag", UNKNOWN)
def test_an_unknown_class_is_one_line(flag, capsys):
    name, expected = UNKNOWN[flag]
    assert main(["fit", "--config", str(QUICKSTART / "embedder.yaml"), flag, name]) == 2
    assert capsys.readouterr().err.startswith(f"embedrl: error: {expected}")
