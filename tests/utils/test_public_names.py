"""Every YAML, document and checkpoint uses public names, and the stubs that list them are true."""

import ast
import importlib
import json
import re
from pathlib import Path

import pytest
import yaml

import embedrl
from embedrl.utils.public_names import ROOT, names_of, public_names, public_packages, public_path

REPOSITORY = Path(__file__).parents[2]
CLASS_PATH = re.compile(r"""class_path["']?:\s*["']?(embedrl[\w.]+)|["'`](embedrl(?:\.\w+)*\.[A-Z]\w+)["'`]""")


def files() -> list[Path]:
    kinds = ("configs/**/*.yaml", "docs/**/*.md", "*.md", "embedrl/assets/**/*.yaml")
    kinds += ("embedrl/**/*.py", "benchmarks/*.py", "tests/**/*.py")
    return [path for kind in kinds for path in sorted(REPOSITORY.glob(kind))]


def class_paths(path: Path) -> set[str]:
    return {one or other for one, other in CLASS_PATH.findall(path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("package", public_packages())
def test_every_name_of_a_stub_is_there(package):
    module = importlib.import_module(package)
    for name, home in names_of(package).items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)
        assert not (ROOT.joinpath(*package.split(".")[1:]) / f"{name}.py").exists(), f"{package}.{name} is a module too"
    assert set(names_of(package)) <= set(dir(module))


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'embedrl' has no attribute 'Nope'"):
        _ = embedrl.Nope
    with pytest.raises(ImportError, match="Nope"):
        exec("from embedrl.rl import Nope")


def test_the_stubs_hold_imports_alone():
    for package in public_packages():
        stub = ROOT.joinpath(*package.split(".")[1:], "__init__.pyi")
        statements = ast.parse(stub.read_text()).body
        assert all(isinstance(node, ast.ImportFrom | ast.AnnAssign) for node in statements)
        names = [alias.name for node in statements if isinstance(node, ast.ImportFrom) for alias in node.names]
        assert len(names) == len(set(names)), f"{package} lists a name twice"


def test_classes_are_written_by_their_shortest_public_name():
    written = {(path, name) for path in files() for name in class_paths(path) if path != Path(__file__)}
    assert len(written) > 100
    wrong = {}
    for path, name in sorted(written):
        module, _, attribute = name.rpartition(".")
        if attribute in ("Nope", "InfoNCEE"):  # on purpose
            continue
        cls = getattr(importlib.import_module(module), attribute)
        if isinstance(cls, type) and cls.__module__.startswith("embedrl") and public_path(cls) != name:
            wrong[f"{path.relative_to(REPOSITORY)}: {name}"] = public_path(cls)
    assert not wrong


def test_class_paths_in_recipes_are_public():
    names = set(public_names().values())

    def walk(value):
        if isinstance(value, dict):
            if str(value.get("class_path", "")).startswith("embedrl"):
                yield value["class_path"]
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                yield from walk(item)

    paths = [*REPOSITORY.glob("configs/**/*.yaml"), *ROOT.glob("assets/**/*.yaml")]
    used = {name for path in paths for name in walk(yaml.safe_load(path.read_text()))}
    assert len(used) > 20
    assert used <= names


def test_what_is_not_public_goes_by_its_module():
    assert public_path(json.JSONDecoder) == "json.decoder.JSONDecoder"
    assert public_path(embedrl.EmbedderModule) == "embedrl.EmbedderModule"
    assert public_path(embedrl.rl.OutcomeReward) == "embedrl.rl.OutcomeReward"
