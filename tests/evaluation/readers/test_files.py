"""Rows of local copies: hostile values make a row unusable, or the file unreadable, in one line."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedrl.errors import DataError
from embedrl.evaluation.readers.build import UnusableError
from embedrl.evaluation.readers.files import Row, read_rows


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
