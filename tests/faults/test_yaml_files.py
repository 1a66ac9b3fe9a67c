"""A YAML file of a few hundred bytes whose aliases stand for a billion values is refused at once, by name."""

import time

import pytest

from embedrl.cli import main
from embedrl.errors import ConfigError
from embedrl.utils.yaml_checks import MAX_VALUES, check_yaml

LISTS = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 9))
BOMBS = {
    "lists": LISTS,
    "merges": MERGES,
    "itself": "a: &a [*a]\n",
    "a list": f"- {{b: {{{LISTS.replace(chr(10), ',')}}}}}",
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "command", [["fit", "--config"], ["data", "stats", "--config"], ["data", "stats", "--mix"], ["eval", "--config"]],
    ids=" ".join,
)  # fmt: skip
def test_a_bomb_is_one_line_at_once(tmp_path, capsys, command, name, nested):
    (tmp_path / "bomb.yaml").write_text(BOMBS[name])
    (tmp_path / "outer.yaml").write_text("mix: bomb.yaml\n")
    begin = time.perf_counter()
    assert main([*command, str(tmp_path / ("outer.yaml" if nested else "bomb.yaml"))]) == 2
    assert time.perf_counter() - begin < 30
    told = capsys.readouterr().err
    assert told.startswith("embedrl: error: ")
    assert f"bomb.yaml: its aliases (*name) stand for more than {MAX_VALUES} values: write out" in told


@pytest.mark.parametrize(
    "text",
    ["", "a: &a {b: 1}\nc: *a\nd: {<<: *a}\n", "a: [", "a: *b\n", "\t", "x: self.yaml", "[" * 5000, "a: 1\n---\nb: 2\n",
     "xs: [" + "1," * 100_000 + "]"],
    ids=["empty", "aliases", "cut", "unknown", "tab", "itself", "deep", "two", "long"],
)  # fmt: skip
def test_what_is_bounded_or_unreadable_passes(tmp_path, text):
    (tmp_path / "self.yaml").write_text(text)
    check_yaml(tmp_path / "self.yaml")
    check_yaml(tmp_path / "none.yaml")
    check_yaml(tmp_path / ("a" * 300 + ".yaml"))


def test_the_limit(tmp_path):
    nine = LISTS.split("a6:")[0]  # ... 10 ** 6 of the last, and those before
    (tmp_path / "a.yaml").write_text(nine)
    with pytest.raises(ConfigError, match=r"a\.yaml"):
        check_yaml(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text(LISTS.split("a5:")[0])
    check_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize("words", [["fit"], ["annotate"]])
def test_a_date_that_is_none_is_one_line(words, tmp_path, capsys):
    path = tmp_path / "dated.yaml"
    path.write_text("x: 2026-99-99\n")
    assert main([*words, "--config", str(path)]) == 2
    assert capsys.readouterr().err == f"embedrl: error: {path}: not valid YAML: month must be in 1..12\n"
