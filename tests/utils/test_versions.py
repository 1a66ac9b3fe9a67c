import shutil

import pytest

from embedrl.evaluation.identity import CODE
from embedrl.utils.versions import PACKAGE, source_hash

PARTS = sorted(
    {path.parent.relative_to(PACKAGE) for room in CODE for path in (PACKAGE / room).rglob("*.py")}
    | {path.relative_to(PACKAGE) for path in map(PACKAGE.joinpath, CODE) if path.is_file()}
)
"""Every package whose code decides what a vector is, and every such file that lies beside the rooms."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    root = tmp_path_factory.mktemp("package") / "embedrl"
    shutil.copytree(PACKAGE, root, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    return root


def test_the_rooms_are_all_there():
    names = {str(part) for part in PARTS}
    assert {"types.py", "tcot", "data/world/lessons", "data/datamodules", "models/qwen_vl", "models/open_clip"} <= names


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_a_change_in_any_package_changes_the_hash(copy, part):
    before = source_hash(CODE, copy)
    path = copy / part if part.suffix else max((copy / part).glob("*.py"))
    original = path.read_bytes()
    path.write_bytes(original + b"# touched\n")
    assert source_hash(CODE, copy) != before
    path.write_bytes(original)
    assert source_hash(CODE, copy) == before


def test_a_room_that_is_gone_is_an_error(copy):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        source_hash(("nowhere",), copy)
