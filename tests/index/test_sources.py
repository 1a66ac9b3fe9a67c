import json
from datetime import date, datetime

import datasets
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from embedrl.api.items import to_side
from embedrl.errors import ConfigError, DataError
from embedrl.index.sources import read_source


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.png"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    (tmp_path / ".hidden.png").write_bytes(b"")
    return tmp_path


ROWS = [{"image": "a.png", "text": "one", "year": 2001}, {"image": "sub/b.png", "text": None, "year": None}]


def check(source):
    """Two rows: pictures and a text, with a year."""
    rows = list(source.rows)
    assert source.total == 2
    assert [row.name for row in rows] == ["a.png", "sub/b.png"]
    assert [row.metadata["year"] for row in rows] == [2001, None]
    sides = [to_side(row.item) for row in rows]
    assert [side.text for side in sides] == ["one", ""]
    assert [side.images[0].load().size for side in sides] == [(8, 8)] * 2


def test_tables_of_each_kind_are_alike(folder):
    parquet.write_table(pa.Table.from_pylist(ROWS), folder / "t.parquet")
    (folder / "t.jsonl").write_text("\n\n".join(map(json.dumps, ROWS)))
    for suffix, mark in (("csv", ","), ("tsv", "\t")):
        lines = [["image", "text", "year"], ["a.png", "one", "2001"], ["sub/b.png", "", ""]]
        (folder / f"t.{suffix}").write_text("\n".join(mark.join(line) for line in lines))
        check(read_source(folder / f"t.{suffix}"))
    check(read_source(folder / "t.parquet"))
    check(read_source(str(folder / "t.jsonl")))


def test_a_folder_holds_pictures_and_says_what_stays_out(folder, capsys):
    (folder / "notes.txt").write_text("x")
    source = read_source(folder)
    assert [row.name for row in source.rows] == ["a.png", "sub/b.png"]
    assert "1 files are neither pictures nor videos" in capsys.readouterr().err


def test_columns_are_named(folder):
    (folder / "t.csv").write_text("caption,pic,path\nfox,a.png,x\n")
    (row,) = read_source(folder / "t.csv", "caption", "pic").rows
    assert (to_side(row.item).text, row.metadata) == ("fox", {"path": "x"})
    with pytest.raises(ConfigError, match=r"--image_column nope: .* has no such column, but caption, pic, path"):
        read_source(folder / "t.csv", "caption", "nope")
    (folder / "u.csv").write_text("x,y\n1,2\n")
    with pytest.raises(ConfigError, match="neither a text nor a picture among x, y"):
        read_source(folder / "u.csv")


def test_bad_lines_are_rows_with_errors(folder):
    (folder / "t.jsonl").write_text('{"text": "a"}\n{"text": \n[1]\n{"x": 1}\n')
    rows = list(read_source(folder / "t.jsonl").rows)
    assert [isinstance(row.item, DataError) for row in rows] == [False, True, True, True]
    (folder / "t.csv").write_text("text,n\na,1\nb\nc,2\n")
    assert [row.name for row in read_source(folder / "t.csv").rows if isinstance(row.item, DataError)] == ["row 2"]


def test_cells_of_a_csv_have_the_types_of_their_columns(folder):
    (folder / "t.csv").write_text(
        "Image;text;n;x;yes;day;at;code\na.png;7;1;1;true;2020-01-31;2020-01-31T10:00:00;01a\nsub/b.png;;;2.5;;;;\n"
    )
    first, second = read_source(folder / "t.csv").rows
    assert (first.name, to_side(first.item).text) == ("a.png", "7")
    assert first.metadata == {
        "n": 1, "x": 1.0, "yes": True, "day": date(2020, 1, 31), "at": datetime(2020, 1, 31, 10), "code": "01a"
    }  # fmt: skip
    assert second.metadata == {"n": None, "x": 2.5, "yes": None, "day": None, "at": None, "code": None}


def test_lists_and_rows_over_several_lines_are_read(folder):
    for name, text in (
        ("t.json", json.dumps(ROWS)),
        ("t.ndjson", "\n".join(json.dumps(row, indent=1) for row in ROWS)),
    ):
        (folder / name).write_text(text)
        rows = list(read_source(folder / name).rows)
        assert [row.name for row in rows] == ["a.png", "sub/b.png"]


def test_a_programs_own_items():
    picture = Image.new("RGB", (4, 4))
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    assert [dict(row.metadata) for row in read_source(data).rows] == [{"label": 0}, {"label": 1}]
    given = ["a", picture, {"text": "b", "year": 1}, (picture, {"year": 2})]
    rows = list(read_source(given).rows)
    assert [dict(row.metadata) for row in rows] == [{}, {}, {"year": 1}, {"year": 2}]
    assert read_source(iter(given)).total is None


@pytest.mark.parametrize(
    ("source", "kind", "said"),
    [
        (3, ConfigError, "an object of type int"),
        ({"text": "a"}, ConfigError, "an object of type dict"),
        ("none", DataError, "no such file or folder"),
        (__file__, DataError, "not a folder, nor a table"),
    ],
)
def test_what_is_no_source(source, kind, said):
    with pytest.raises(kind, match=said):
        read_source(source)
