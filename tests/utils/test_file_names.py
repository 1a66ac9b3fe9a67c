"""Names from data as paths and as files."""

import pytest

from embedrl.errors import ConfigError, DataError
from embedrl.utils.file_names import MAX_BYTES, check_file_names, file_name, resolve, resolve_new


@pytest.mark.parametrize("name", ["../x.png", "/etc/passwd", "a/../../x", "", " ", "..", "a\\..\\..\\x", "x\0.png"])
def test_paths_that_leave_the_root(name):
    with pytest.raises(DataError, match="leaves the root folder /data: give a path inside it"):
        resolve("/data", name)


def test_paths_inside_the_root():
    assert resolve("/data", "./a//b/../x..y.png") == ("/data/a/x..y.png", "a/x..y.png")


@pytest.mark.parametrize(
    "name", ["a.png", "a/b.png", "doc 1: x?.png", "页 1.png", "किला.png", "x..y.png", ".x.png", "p" * 200]
)
def test_a_new_file_is_read_back_by_the_name_it_was_written_by(tmp_path, name):
    path = resolve_new(tmp_path, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    assert str(path) == resolve(tmp_path, name)[0]
    assert path.is_relative_to(tmp_path)


BAD = [
    "../x",
    "/x",
    "a/../../x",
    "..",
    ".",
    "",
    " ",
    "a\\b",
    "./a",
    "a//b",
    "a/./b",
    "a/",
    "x\0.png",
    "a\nb",
    "p" * 300,
    "页" * 99,
]


@pytest.mark.parametrize("name", BAD)
def test_a_new_file_of_no_plain_name_is_refused(tmp_path, name):
    with pytest.raises(DataError, match=r"leaves the root folder|no plain name|has .* bytes"):
        resolve_new(tmp_path, name)


ODD = [
    *BAD,
    "../../../escaped",
    "NUL",
    "con.txt",
    "Aux",
    "com1",
    "a:b",
    "a|b?*",
    "\ud800",
    "-",
    "~",
    "$HOME",
    "`x`",
    "a" * 4000,
]


@pytest.mark.parametrize("name", ODD)
def test_every_name_becomes_one_of_a_file_in_its_folder(tmp_path, name):
    path = tmp_path / f"{file_name(name)}.parquet"
    path.write_bytes(b"x")
    assert path.parent.resolve() == tmp_path == path.resolve().parent
    assert not path.name.startswith(".")
    assert len(file_name(name).encode()) <= MAX_BYTES
    assert file_name(file_name(name)) == file_name(name)


@pytest.mark.parametrize("name", ["MSR-VTT", "ImageNet-1K", "ViDoRe_esg_reports_v2", "v1.0", "किला", "日本語", "Größe"])
def test_plain_names_stay(name):
    assert file_name(name) == name


def test_names_that_are_cut_stay_apart():
    assert file_name("a" * 300) != file_name("a" * 301)
    assert file_name("页" * 300).startswith("页" * 30)


@pytest.mark.parametrize(
    "names", [["a/b", "a_b"], ["Set", "set"], ["a b", "a:b"], ["caf\u00e9", "cafe\u0301"], ["tcots"], ["x", "TCOTS"]]
)
def test_two_things_in_one_file_are_refused(names):
    with pytest.raises(ConfigError, match=r"--mix: .* would both be written to .*: rename one"):
        check_file_names(names, "--mix", ["tcots"])


def test_distinct_names_pass():
    check_file_names(["a", "b", "किला", "काला", "world/grounding", "x" * 300, "x" * 301], "--mix", ["tcots"])
