"""The house is as the documentation says: tests mirror modules, and files stay small."""

from pathlib import Path

import pytest

import embedrl

ROOT = Path(__file__).parents[1]
PACKAGE = Path(embedrl.__file__).parent
NO_MIRROR = {"integration", "benchmarks", "helpers", "faults"}  # the command line, scripts, what tests share
TESTS = [
    path.relative_to(ROOT / "tests")
    for path in sorted((ROOT / "tests").rglob("test_*.py"))
    if len(path.relative_to(ROOT / "tests").parts) > 1 and path.relative_to(ROOT / "tests").parts[0] not in NO_MIRROR
]
LONGEST = 320


@pytest.mark.parametrize("test", TESTS, ids=str)
def test_a_test_file_stands_where_its_module_does(test):
    """`tests/rl/test_module_distributed.py` tests `embedrl/rl/module.py`: the path is the same, the rest an aspect."""
    words = test.stem.removeprefix("test_").split("_")
    names = ["_".join(words[:count]) for count in range(1, len(words) + 1)]
    assert any((PACKAGE / test.parent / f"{name}.py").is_file() for name in names), f"no module of that name for {test}"


def test_files_are_one_idea_each():
    long = {str(path): count for path in PACKAGE.rglob("*.py") if (count := len(path.open().readlines())) > LONGEST}
    assert not long


def test_every_room_says_what_it_holds():
    rooms = [path for path in PACKAGE.rglob("__init__.py") if "assets" not in path.parts]
    assert all(path.read_text().startswith('"""') for path in rooms)
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert folders == {path.parent for path in rooms}
