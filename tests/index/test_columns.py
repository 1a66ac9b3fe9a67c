import datetime

import pyarrow as pa
import pytest

from embedrl.errors import DataError
from embedrl.index.columns import metadata_arrays, own_fields

SCHEMA = pa.schema([*own_fields(4), pa.field("year", pa.int64()), pa.field("price", pa.float64())])


def arrays(*rows):
    return metadata_arrays(rows, SCHEMA, [f"row {i}" for i in range(len(rows))])


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None], pa.int64()),
        ([1, 0.5], pa.float64()),
        (["a", "b"], pa.string()),
        ([True, None], pa.bool_()),
        ([["a"], []], pa.list_(pa.string())),
        ([{"a": 1}, {"b": [2]}], pa.string()),
        ([datetime.date(2020, 1, 1)], pa.date32()),
    ],
)
def test_new_columns_take_the_type_of_their_values(values, kind):
    made, fields = arrays(*({"new": value} for value in values))
    assert fields == [pa.field("new", kind)]
    assert made["new"].type == kind


def test_values_fit_the_columns_that_are_there():
    made, fields = arrays({"year": 2020.0, "price": 3, "empty": None}, {})
    assert not fields
    assert made["year"].to_pylist() == [2020, None]
    assert made["price"].to_pylist() == [3.0, None]
    assert "empty" not in made


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"year": "2020"}, "'year' of the metadata holds string here and int64 in the index"),
        ({"year": 2020.5}, "'year' of the metadata holds double here"),
        ({"Year": 1}, "SQL reads both as one"),
        ({"key": "a"}, "the index itself uses"),
        ({"Vector": [1.0]}, "the index itself uses"),
        ({"_rowid": 1}, "the index itself uses"),
        ({"a.b": 1}, "no dots"),
        ({"a`b": 1}, "no dots"),
        ({"": 1}, "give it a name"),
        ({"big": 2**70}, "no single type"),
        ({"odd": object()}, "no single type"),
    ],
)
def test_what_does_not_fit_is_named(row, said):
    with pytest.raises(DataError, match=said):
        arrays(row)


def test_a_mixed_column_names_its_rows():
    with pytest.raises(DataError, match="int in row 0, str in row 2"):
        arrays({"m": 1}, {"m": 2}, {"m": "x"})
