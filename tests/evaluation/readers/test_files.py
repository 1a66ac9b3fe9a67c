"""Rows of local copies: hostile values make a row unusable, or the file unreadable, in one line."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedrl.data.formats import JsonlSource
from embedrl.errors import DataError
from embedrl.evaluation.readers.build import UnusableError
from embedrl.evaluation.readers.files import Row, frames, picture, read_rows


@pytest.mark.parametrize("value", ["9" * 400, "-1e400", '"nan"', '"1e999"', "true1", "null", "[1]", "[" * 100_000])
def test_what_is_no_number(tmp_path, value):
    path = tmp_path / "set.jsonl"
    path.write_text(f'{{"score": 1}}\n{{"score": {value}}}\n{{"score": "2.5"}}\n')
    first, second, third = read_rows(path)
    assert (first.number("score"), third.number("score")) == (1.0, 2.5)
    with pytest.raises(UnusableError):
        second.number("score")


def test_a_whole_number_without_bound_is_no_number():
    with pytest.raises(UnusableError, match=r"'score' is 9{59}.*, not a number: check the format"):
        Row({"score": 10**400 - 1}, "set.jsonl, row 0", "set").number("score")


def test_a_parquet_text_that_is_not_utf8_names_the_file(tmp_path):
    path = tmp_path / "set.parquet"
    broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    pq.write_table(pa.table({"text": broken}), path)
    with pytest.raises(DataError, match=rf"^cannot read {path} \(.*\): fetch the file again$"):
        list(read_rows(path))


HOSTILE = [
    "../x",
    "/etc/passwd",
    "..",
    ".",
    "",
    " ",
    "a\\..\\..\\x",
    "x\0y",
    "p" * 300,
    "p/" * 3000,
    "\ud800",
    "CON",
    "a\nb",
    "~",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_of_a_row_is_unusable_and_nothing_else(tmp_path, name):
    """Whatever a row calls its picture or its video: no traceback, nothing outside the folder."""
    (tmp_path / "set/images").mkdir(parents=True)
    (tmp_path / "set/x").write_bytes(b"outside")
    for read in (picture, frames):
        with pytest.raises(UnusableError):
            read(tmp_path, "set/images", name)
    row = {"id": "1", "query": {"text": "q", "images": [name]}, "target": {"text": "t", "frames": [name]}}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    source = JsonlSource(str(tmp_path / "rows.jsonl"), root=str(tmp_path / "set/images"), cache_dir=str(tmp_path))
    with pytest.raises(DataError):
        source[0].query.images[0].load()
