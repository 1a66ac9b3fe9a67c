"""Every shipped YAML parses and trains two steps through the command line; parts replace one another without trace."""

import json
import re
from itertools import permutations
from pathlib import Path

import pytest
import yaml
from cli_process import logged
from jsonargparse import ActionConfigFile
from lightning.pytorch import LightningDataModule, LightningModule
from recipes import (
    CONFIGS,
    EMBEDDER,
    PARTS,
    PICTURES,
    QUICKSTART,
    RECIPES,
    SMALL,
    name,
    overlays,
    printed,
    rolled_out,
    smaller,
)
from small_sources import MIX

from embedrl.cli import main
from embedrl.commands.fit import TrainingParser

ON_GPUS = [path for path in RECIPES if "_vl_" in path.stem or "_vit_" in path.stem]  # test_recipes.py trains these
SLOW = ("ume_r1_rl", "rge", "plume", "gate_sft", "gate_rl")
FLAGS = {"backbone": "--model.backbone", "loss": "--model.loss", "mix": "--data.mix"}
"""Folder of parts → the flag they are given to."""


def swaps(kind: str) -> list[tuple[Path, Path]]:
    """Ordered pairs of parts: each part comes first and second, and each class before each other one.

    A mix is a list, of whatever classes: a later one takes its place.
    """
    parts = [part for part in PARTS if part.parent.name == kind]
    pairs = dict.fromkeys(zip(parts, parts[1:] + parts[:1], strict=True))
    ones = {re.sub(r"(?s).*?class_path: ([\w.]+).*", r"\1", part.read_text(), count=1): part for part in parts}
    return list(pairs if kind == "mix" else pairs | dict.fromkeys(permutations(ones.values(), 2)))


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(p, marks=pytest.mark.slow if p.parent.name == "unified" else (), id=name(p)) for p in ON_GPUS],
)
def test_a_recipe_parses_and_names_its_folder(recipe, capsys):
    config = printed(capsys, "--config", recipe)
    assert config["trainer"]["default_root_dir"].startswith("runs/")
    assert config["model"]["class_path"].startswith("embedrl.")


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(p, marks=pytest.mark.slow if p.stem in SLOW else (), id=name(p))
        for p in RECIPES
        if p not in (QUICKSTART, *ON_GPUS)
    ],
)
def test_a_recipe_trains_two_steps(recipe, tmp_path, monkeypatch, capsys):
    kind = yaml.safe_load(recipe.read_text())["model"]["class_path"].rpartition(".")[2]
    monkeypatch.chdir(tmp_path)
    rollouts = [rolled_out(tmp_path)] if "StepLessons" in recipe.read_text() else []
    flags = overlays(tmp_path, SMALL, smaller(recipe), *rollouts)
    assert main(["fit", "--config", str(recipe), *flags]) == 0, capsys.readouterr().err
    (run,) = (tmp_path / "runs").rglob("version_0")
    assert sorted(logged(run, "reward/total/mean" if "RL" in kind else "train/loss")) == [0, 1]
    assert (run / "checkpoints" / "last.ckpt").is_file()
    if kind == "EmbedderModule":
        assert (run / "retrieval_grid" / "vqa.png").is_file()


def test_the_quickstart_from_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = {key: value for key, value in EMBEDDER["data"]["init_args"].items() if key != "mix"}  # the shipped mix
    flags = ["--config", str(QUICKSTART), *overlays(tmp_path, SMALL, {"data": {"init_args": data}}, PICTURES)]
    flags += ["--trainer.enable_progress_bar", "true"]
    assert main(["fit", *flags]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert re.search(r"^step 1/2  loss \d+\.\d{3}  \S+ pairs/s  \d+ s left$", out, re.MULTILINE)
    assert re.search(r"^step 2/2  loss \d+\.\d{3}  \S+ pairs/s$", out, re.MULTILINE)
    assert re.search(r"^step 2  validation \(\d+ s\)  hit@1 \d\.\d{3}$", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 120
    (run,) = (tmp_path / "runs").rglob("version_0")
    shown = run.relative_to(tmp_path)
    files = (f"{shown}/retrieval_grid/", f"{shown}/checkpoints/best.ckpt")
    for line in ("tensorboard --logdir", *files, "last validation", "hit@1"):
        assert line in out
    assert (run / "retrieval_grid" / "vqa.png").is_file()
    assert len((run / "00002/validation/metadata.tsv").read_text().splitlines()) > 2
    (first,) = json.loads((run / "provenance.json").read_text())["starts"]
    assert first["finished"]
    assert first["global_step"] == 2
    assert first["config"]["data"]["init_args"]["batch_size"] == 4
    assert first["packages"]["torch"]

    # What the run wrote down scores its checkpoint again, and trains on in the same folder.
    scores = logged(run, "val/hit@1").popitem()[1]
    config = ["--config", str(run / "config.yaml")]
    capsys.readouterr()
    assert main(["validate", *config, "--ckpt_path", "best"]) == 0, capsys.readouterr().err
    assert re.search(
        rf"^  hit@1 +{scores[-1]:.3f}$", capsys.readouterr().out, re.MULTILINE
    )  # and no table of Lightning's
    assert logged(run.parent / "validate_0", "val/hit@1").popitem()[1] == scores
    assert main(["fit", *config, "--ckpt_path", "last", "--trainer.max_steps", "3"]) == 0, capsys.readouterr().err
    assert sorted(logged(run, "train/loss")) == [0, 1, 2]
    starts = json.loads((run / "provenance.json").read_text())["starts"]
    assert starts[1]["resumed_from"].endswith("last.ckpt")
    assert yaml.safe_load((run / "config.yaml").read_text())["ckpt_path"] is None


def plain(node: object) -> object:
    """A parsed configuration without the paths of the files that it comes from."""
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items() if key != "__path__"}
    return [plain(item) for item in node] if isinstance(node, list) else node


@pytest.fixture
def parsed(tmp_path):
    """What the parser of `fit` makes of parts that are given one after the other."""
    parser = TrainingParser()
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True, required=False)
    shipped = yaml.safe_load(QUICKSTART.read_text())
    shipped["model"]["init_args"]["backbone"] = str(CONFIGS / "parts/backbone/tiny.yaml")
    shipped["data"]["init_args"]["mix"] = MIX

    def parse(flag: str, *parts: Path) -> object:
        section = flag.removeprefix("--").partition(".")[0]
        base = {name: value for name, value in shipped.items() if name in {"model", section}}
        flags = [word for part in parts for word in (flag, str(part))]
        return plain(parser.parse_args([*overlays(tmp_path, base), *flags])[section].as_dict())

    return parse


@pytest.mark.slow
@pytest.mark.parametrize("kind", FLAGS)
def test_a_part_replaces_another_without_trace(kind, parsed):
    flag, pairs = FLAGS[kind], swaps(kind)
    alone = {part: parsed(flag, part) for part in PARTS if part.parent.name == kind}
    assert {first for first, _ in pairs} == {second for _, second in pairs} == set(alone)
    for first, second in pairs:
        swapped = parsed(flag, first, second)
        assert swapped == alone[second], (first, second)
        assert swapped != alone[first], (first, second)


def test_the_command_line_swaps_as_the_parser_does(parsed, tmp_path, capsys):
    parts = [CONFIGS / f"parts/backbone/{stem}.yaml" for stem in ("tux_towers", "siglip2_tiny")]
    config = printed(capsys, "--config", QUICKSTART, *(word for part in parts for word in ("--model.backbone", part)))
    assert config["model"]["init_args"]["backbone"] == yaml.safe_load(parts[1].read_text())
    both = [parsed("--model.backbone", *parts)["init_args"]["backbone"], config["model"]["init_args"]["backbone"]]
    assert both[0] == both[1]


def test_the_command_line_reaches_what_refers_to_it(tmp_path, capsys):
    overlay = overlays(tmp_path, {"data": {"init_args": {"seed": "${seed_everything}"}}})
    config = printed(capsys, "--config", QUICKSTART, *overlay, "--seed_everything", "11")
    assert config["data"]["init_args"]["seed"] == 11
