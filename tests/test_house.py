"""The house is as the documentation says: tests mirror modules, files stay small, names say what they mean."""

import ast
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

import embedrl

ROOT = Path(__file__).parents[1]
PACKAGE = Path(embedrl.__file__).parent
NO_MIRROR = {"integration", "benchmarks", "helpers", "scripts", "faults"}  # command line, scripts, borders
TESTS = [
    path.relative_to(ROOT / "tests")
    for path in sorted((ROOT / "tests").rglob("test_*.py"))
    if len(path.relative_to(ROOT / "tests").parts) > 1 and path.relative_to(ROOT / "tests").parts[0] not in NO_MIRROR
]
LONGEST = 320
TREES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
EMPTY_NAMES = {"found", "wanted"}  # they say that a variable holds something, not what


@pytest.mark.parametrize("test", TESTS, ids=str)
def test_a_test_file_stands_where_its_module_does(test):
    """`tests/rl/test_module_distributed.py` tests `embedrl/rl/module.py`: the path is the same, the rest an aspect."""
    words = test.stem.removeprefix("test_").split("_")
    names = ["_".join(words[:count]) for count in range(1, len(words) + 1)]
    assert any((PACKAGE / test.parent / f"{name}.py").is_file() for name in names), f"no module of that name for {test}"


def test_files_are_one_idea_each():
    long = {str(path): count for path in PACKAGE.rglob("*.py") if (count := len(path.open().readlines())) > LONGEST}
    assert not long


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")
def test_a_clone_can_be_checked_out_on_windows():
    names = (
        subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    )
    assert len(names) > 100
    assert not [name for name in names if set(name) & set('<>:"\\|?*')]


def test_every_room_says_what_it_holds():
    rooms = [path for path in PACKAGE.rglob("__init__.py") if "assets" not in path.parts]
    assert all(path.read_text().startswith('"""') for path in rooms)
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert folders == {path.parent for path in rooms}


def test_a_class_name_means_one_class():
    places = defaultdict(list)
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path}:{node.lineno}")
    assert len(places) > 100
    assert not {name: where for name, where in places.items() if len(where) > 1}


def names_given(tree):
    """Names of variables, arguments, functions and classes that a module defines, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno


def test_a_name_says_what_the_variable_holds():
    empty = {
        f"{path}:{line}": name
        for path, tree in TREES.items()
        for name, line in names_given(tree)
        if name.strip("_").lower() in EMPTY_NAMES
    }
    assert not empty
