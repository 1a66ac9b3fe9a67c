import json
import math

import pytest

from embedrl.data import json_stream
from embedrl.data.json_stream import iter_rows
from embedrl.errors import DataError

NOT_JSON = [
    ('[{"a": 1}, {"a": 2]', "row 1, line 1, character 19: not JSON: Expecting ',' delimiter"),
    ('[{"a": 1},\n {"a": }\n]', "row 1, line 2, character 8: not JSON: Expecting value"),
    ('{"a": 1}\n{"a" 2}\n', "row 1, line 2, character 6: not JSON: Expecting ':' delimiter"),
    ('[\n{"a": 1}\n{"a": 2}]', "row 1, line 3, character 1: not JSON: a comma is missing"),
    ('[{"a": 1}, 3]', "row 1, line 1, character 12: not JSON: a row must be an object"),
    ('[{"a": 1},]', "row 1, line 1, character 11: not JSON: a row must be an object"),
    ('[{"a": 1}', "row 1, line 1, character 10: not JSON: the list is not closed: the file is cut off"),
    ('[{"a": "x', "row 0, line 1, character 8: not JSON: Unterminated string"),
    ('[{"a": 1}] x', "row 1, line 1, character 12: not JSON: something follows"),
    ("hello", "row 0, line 1, character 1: not JSON: a row must be an object"),
    ('[{"a": ' + "[" * 100_000, "row 0, line 1, character 2: not JSON: a value that cannot be read"),
    ('[{"a": ' + "9" * 5000 + "}]", "row 0, line 1, character 2: not JSON: a value that cannot be read"),
]


@pytest.mark.parametrize("chunk", [3, 1 << 16])
@pytest.mark.parametrize(("text", "message"), NOT_JSON)
def test_not_json(tmp_path, monkeypatch, text, message, chunk):
    """Whatever the window's size, the mistake is placed where it is."""
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    path = tmp_path / "set.json"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        list(iter_rows(path))
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_a_file_without_rows_has_none(tmp_path):
    path = tmp_path / "set.json"
    for text in ("", " \n", "[]", "\ufeff[ ]\n"):
        path.write_text(text, encoding="utf-8")
        assert list(iter_rows(path)) == []


def test_rows_keep_what_they_hold(tmp_path):
    """What a stricter reader refuses is one row's affair, not the file's."""
    path = tmp_path / "set.jsonl"
    path.write_text(
        '{"a": NaN, "b": 1e400, "c": 18446744073709551617}\n'
        '{"a": 1, "a": 2, "": {"": 3}}\n'
        '\n{\n"a": "x\\ud800y\\u0000"\n} {"a": []}'
    )
    (_, first), *others = iter_rows(path)
    assert math.isnan(first["a"])
    assert (first["b"], first["c"]) == (math.inf, 2**64 + 1)
    assert others == [(2, {"a": 2, "": {"": 3}}), (4, {"a": "x\ud800y\0"}), (6, {"a": []})]


def test_not_utf8(tmp_path):
    (tmp_path / "set.json").write_bytes(b'[{"a": "\xff"}]')
    with pytest.raises(DataError, match=r"is not UTF-8 .*: convert the file"):
        list(iter_rows(tmp_path / "set.json"))


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("chunk", [1, 7, 64, 4096])
def test_rows_across_chunks(tmp_path, monkeypatch, chunk, indent):
    """Whatever the window's size, rows and lines equal what a whole-file reader finds."""
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    rows = [{"a": "x" * (i % 37), "b": [i, {"c": '}]"\\ü\u2028'}], "d": -1.5e3, "e": None} for i in range(120)]
    text = json.dumps(rows, indent=indent, ensure_ascii=False)
    (tmp_path / "list.json").write_text("\ufeff" + text, encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text("\r\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    read = list(iter_rows(tmp_path / "list.json"))
    assert [row for _, row in read] == rows
    if indent:
        starts = [i for i, line in enumerate(text.split("\n"), 1) if line == "  {"]
        assert [line for line, _ in read] == starts
    assert list(iter_rows(tmp_path / "rows.jsonl")) == list(enumerate(rows, 1))


def test_a_mistake_is_placed_whatever_the_window(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "_CHUNK", 8)
    (tmp_path / "x.json").write_text('[{"a": 1},\n' * 1 + '{"a": 2},\n' * 50 + '{"a": 3, "b": x}]')
    with pytest.raises(DataError, match="row 51, line 52, character 15: not JSON: Expecting value"):
        list(iter_rows(tmp_path / "x.json"))
