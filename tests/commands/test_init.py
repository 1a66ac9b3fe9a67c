"""`embedrl init`: a recipe as one file means what the recipe means."""

from pathlib import Path

import pytest
import yaml
from recipes import RECIPES, name, printed

from embedrl.cli import main


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def copied(recipe, out):
    assert main(["init", recipe, "--out", str(out)]) == 0
    return out.read_text()


def test_the_copy_is_one_file_that_says_what_its_fields_are(here, capsys):
    text = copied("own_data", here / "my.yaml")
    assert "class_path: embedrl.QwenVLBackbone" in text
    assert ".yaml\n" not in text.replace("qwen3_vl_2b.yaml", "")
    lines = text.splitlines()
    for field, about in {
        "sub_batch_size": "Pairs in a sub-batch, which holds one data set; divides `batch_size`.",
        "tcot": "`none` (the raw side)",
        "max_steps": "Stop training after this number of steps.",
        "min_pixels": "Smaller pictures are enlarged",
        "- class_path": "After every validation, one picture per task",
    }.items():
        at = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{field}:"))
        comment = " ".join(line.strip() for line in lines[at - 3 : at]).replace(" # ", " ")  # may wrap anywhere
        assert about in comment, field
    assert text.startswith("# Pairs of your own:")
    assert max(map(len, lines)) <= 125


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_the_copy_means_what_the_recipe_means(recipe, here, capsys):
    copied(name(recipe), here / "my.yaml")
    capsys.readouterr()
    assert printed(capsys, "--config", here / "my.yaml") == printed(capsys, "--config", recipe)


@pytest.mark.parametrize(
    "recipe", ["construction/split.yaml", "eval/world.yaml", "mining/world.yaml", "mining/gain.yaml"]
)
def test_recipes_of_other_commands_are_copied_too(recipe, here):
    assert yaml.safe_load(copied(f"configs/{recipe}", here / "my.yaml"))


def test_the_name_is_the_recipes_own_and_nothing_is_replaced(here, capsys):
    assert main(["init", "own_data"]) == 0
    assert "Wrote own_data.yaml" in capsys.readouterr().out
    for words, message in {
        ("own_data",): "--out own_data.yaml: already there: give a new file",
        ("nope",): "nope: no such recipe: `embedrl recipes` lists them",
        ("parts/mix/tux", "--out", "x.yaml"): "is a list, which is a part of recipes: give a recipe",
        ("own_data", "--out", "x.txt"): "--out x.txt: give a name that ends with .yaml",
    }.items():
        assert main(["init", *words]) == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["own_data.yaml"]
