"""Every shipped YAML parses and trains two steps through the command line; parts replace one another without trace."""

import json
import re
from itertools import permutations
from pathlib import Path

import pytest
import yaml
from cli_process import logged
from recipes import EMBEDDER, PARTS, PICTURES, QUICKSTART, RECIPES, SMALL, SMALLER, name, overlays, printed
from small_sources import MIX

from embedrl.cli import main

ON_GPUS = [path for path in RECIPES if "_vl_" in path.stem or "_vit_" in path.stem]  # test_recipes.py trains these
FLAG = {"backbone": "--model.backbone", "loss": "--model.loss", "mix": "--data.mix", "trainer": "--trainer"}
"""Folder of parts → the flag they are given to."""


def swaps(kind: str) -> list:
    """Every part after every other; by default each short part, losses left out, after its neighbour.

    Of the vision-language models, which differ in their path, one stands for all; of the real ones, by default alone.
    """
    parts = [part for part in PARTS if part.parent.name == kind]
    alike = [part for part in parts if "VLMBackbone" in part.read_text() and part.stem != "internvl_tiny"]
    parts = [part for part in parts if part not in alike or not part.stem.endswith("_tiny")]
    short = [part for part in parts if part.stat().st_size < 3000 and part not in alike]
    near = set(zip(short, short[1:] + short[:1], strict=True))
    marks = {pair: [] if pair in near and kind != "loss" else [pytest.mark.slow] for pair in permutations(parts, 2)}
    return [pytest.param(*pair, marks=found) for pair, found in marks.items()]


SWAPS = [swap for kind in FLAG for swap in swaps(kind)]


@pytest.mark.parametrize("recipe", ON_GPUS, ids=name)
def test_a_recipe_parses_and_names_its_folder(recipe, capsys):
    config = printed(capsys, "--config", recipe)
    assert config["trainer"]["default_root_dir"].startswith("runs/")
    assert config["model"]["class_path"].startswith("embedrl.")


@pytest.mark.parametrize("recipe", [path for path in RECIPES if path not in (QUICKSTART, *ON_GPUS)], ids=name)
def test_a_recipe_trains_two_steps(recipe, tmp_path, monkeypatch, capsys):
    kind = yaml.safe_load(recipe.read_text())["model"]["class_path"].rpartition(".")[2]
    monkeypatch.chdir(tmp_path)
    flags = overlays(tmp_path, SMALL, SMALLER[kind])
    assert main(["fit", "--config", str(recipe), *flags]) == 0, capsys.readouterr().err
    (run,) = (tmp_path / "runs").rglob("version_0")
    assert sorted(logged(run, "reward/total/mean" if kind == "EGRLModule" else "train/loss")) == [0, 1]
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


@pytest.fixture(scope="module")
def alone() -> dict[Path, dict]:
    """The quickstart's configuration with one part, by part."""
    return {}


@pytest.mark.parametrize(("first", "second"), SWAPS, ids=lambda path: name(path))
def test_a_part_replaces_another_without_trace(first, second, alone, tmp_path, capsys):
    flag = FLAG[first.parent.name]
    base = ["--config", QUICKSTART, *overlays(tmp_path, {"data": {"init_args": {"mix": MIX}}})]
    for part in (first, second):
        if part not in alone:
            alone[part] = printed(capsys, *base, flag, part)
    swapped = printed(capsys, *base, flag, first, flag, second)
    assert swapped == alone[second]
    assert swapped != alone[first]


def test_the_command_line_reaches_what_refers_to_it(tmp_path, capsys):
    overlay = overlays(tmp_path, {"data": {"init_args": {"seed": "${seed_everything}"}}})
    config = printed(capsys, "--config", QUICKSTART, *overlay, "--seed_everything", "11")
    assert config["data"]["init_args"]["seed"] == 11
