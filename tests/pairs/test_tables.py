"""Tables of captions: what is read, and what each bad file or row is told."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from captioned import pictures, png, table

from embedrl.errors import DataError, TooManyBadError
from embedrl.pairs import from_csv
from embedrl.types import Modality

CAPTION = 'one, "two"\nthree'


def read(pairs):
    return [(item.media.name, item.text) for item in pairs.items]


TABLES = {
    "comma": ("t.csv", "file,caption\nred.png,a red card\nblue.png,blå\n"),
    "byte order mark": ("t.csv", "\ufefffile,caption\nred.png,a red card\nblue.png,blå\n"),
    "semicolon": ("t.csv", "caption;file\na red card;red.png\nblå;blue.png\n"),
    "tab": ("t.csv", "file\tcaption\nred.png\ta red card\nblue.png\tblå\n"),
    "bar": ("t.csv", "file|caption\nred.png|a red card\nblue.png|blå\n"),
    "tsv": ("t.tsv", "file\tcaption\nred.png\ta red card\nblue.png\tblå\n"),
    "windows": ("t.csv", "file,caption\r\n.\\red.png,a red card\r\n\r\nblue.png,blå\r\n"),
    "old mac": ("t.csv", "file,caption\rred.png,a red card\rblue.png,blå\r"),
    "more columns": ("t.csv", "n,File Name,file,Caption\n1,x,red.png,a red card\n2,y,blue.png,blå\n"),
    "spaces": ("t.csv", "file , caption\n red.png ,  a red card \nblue.png,blå\n"),
    "json lines": ("t.jsonl", '{"file": "red.png", "caption": "a red card"}\n{"file": "blue.png", "caption": "blå"}\n'),
    "json": ("t.json", '[{"file": "red.png", "caption": "a red card"}, {"file": "blue.png", "caption": "blå"}]'),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_is_read(case, tmp_path):
    name, text = TABLES[case]
    pictures(tmp_path)
    (tmp_path / name).write_bytes(text.encode())
    pairs = from_csv(tmp_path / name)
    assert read(pairs) == [("red.png", "a red card"), ("blue.png", "blå")]
    assert (pairs.name, pairs.modality, pairs.root) == ("t", Modality.IMAGE, tmp_path)
    assert pairs[0].query.text == "a red card"
    assert pairs[0].target.images[0].load().getpixel((0, 0)) == (255, 0, 0)


def test_a_line_that_is_no_json_is_a_bad_row(tmp_path):
    pictures(tmp_path)
    (tmp_path / "t.jsonl").write_text(
        '{"file": "red.png", "text": "a"}\n{"file": \n[1]\n{"file": "blue.png", "text": "b"}'
    )
    with pytest.raises(DataError, match=r"t\.jsonl: line 2: not JSON"):
        from_csv(tmp_path / "t.jsonl")
    pairs = from_csv(tmp_path / "t.jsonl", on_bad="skip")
    assert read(pairs) == [("red.png", "a"), ("blue.png", "b")]
    assert len(pairs.left_out) == 2


def test_quoted_cells_lists_and_ids(tmp_path):
    pictures(tmp_path)
    quoted = CAPTION.replace('"', '""')
    (tmp_path / "t.csv").write_text(f'file,caption\nred.png,"{quoted}"\n')
    assert read(from_csv(tmp_path / "t.csv")) == [("red.png", CAPTION)]
    rows = [{"img": "red.png", "say": ["a", "b"], "n": 7}, {"img": "blue.png", "say": ["c"], "n": 8}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = from_csv(tmp_path / "t.jsonl", text="say", id="n", group="n")
    assert [(item.id, item.text, item.group) for item in pairs.items] == [
        ("7/0", "a", "7"),
        ("7/1", "b", "7"),
        ("8", "c", "8"),
    ]


def test_parquet_names_pictures_or_holds_them(tmp_path):
    pictures(tmp_path)
    pq.write_table(pa.table({"path": ["red.png"], "text": ["a red card"]}), tmp_path / "t.parquet")
    assert read(from_csv(tmp_path / "t.parquet")) == [("red.png", "a red card")]
    held = [{"bytes": png(colour), "path": "../x.png"} for colour in ("red", "lime", "blue")]
    table = pa.table({"image": held, "text": ["r", None, "b"], "n": [1.0, 2.0, 3.0]})
    pq.write_table(table, tmp_path / "held.parquet", row_group_size=2)
    pairs = from_csv(tmp_path / "held.parquet", on_bad="skip")
    assert pairs.root is None
    assert [pair.target.images[0].load().getpixel((0, 0)) for pair in pairs] == [(255, 0, 0), (0, 0, 255)]
    assert [sample.cause for sample in pairs.left_out] == ["empty_caption"]
    pq.write_table(pa.table({"image": [png("blue")], "text": ["b"]}), tmp_path / "held.parquet")
    assert from_csv(tmp_path / "held.parquet")[0].target.images[0].load().getpixel((0, 0)) == (0, 0, 255)
    pq.write_table(pa.table({"path": ["red.png"] * 2, "text": [float("nan"), 7.0]}), tmp_path / "t.parquet")
    assert read(from_csv(tmp_path / "t.parquet", on_bad="skip")) == [("red.png", "7.0")]


def test_made_ids_depend_on_the_content_alone(tmp_path):
    rows = pictures(tmp_path / "a")
    first = from_csv(table(tmp_path / "a/t.csv", rows))
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "b/red.png").rename(tmp_path / "b/rot.png")
    moved = [("rot.png" if name == "red.png" else name, text) for name, text in reversed(rows)]
    second = from_csv(table(tmp_path / "b/t.csv", moved))
    assert [item.id for item in first.items] == [item.id for item in reversed(second.items)]
    assert len({item.id for item in first.items}) == len(rows)


FILES = {
    "missing": ("t.csv", None, "t.csv cannot be read (No such file or directory): check the path"),
    "kind": ("t.xlsx", b"", "a table's name ends with .csv, .tsv"),
    "empty": ("t.csv", b"", "t.csv is empty"),
    "latin-1": ("t.csv", "file,caption\nred.png,x\nblue.png,blå\n".encode("latin-1"), "t.csv: line 3 is not UTF-8"),
    "utf-16": ("t.csv", "file,caption\n".encode("utf-16"), "t.csv: line 1 is not UTF-8"),
    "json latin-1": ("t.jsonl", '{"file": "å"}'.encode("latin-1"), "t.jsonl: line 1 is not UTF-8"),
    "open quote": ("t.csv", b'file,caption\n"red.png,x\nblue.png,x\n', "t.csv: line 2: no CSV"),
    "two columns of a name": ("t.csv", b"file,file,caption\n", "line 1: two columns are named 'file'"),
    "no name": ("t.csv", b"file,,caption\n", "line 1: a column has no name"),
    "no column of captions": ("t.csv", b"file,x\n", "which column holds the captions? it has 'file', 'x'; give one"),
    "no rows": ("t.csv", b"file,caption\n", "t: no pair is left (the source is empty)"),
    "no parquet": ("t.parquet", b"PAR1", "t.parquet: no Parquet file"),
    "json": ("t.jsonl", b"{", "t.jsonl: row 0, line 1, character 2: not JSON"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_bad_file_is_told_in_one_line(case, tmp_path):
    name, content, message = FILES[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as raised:
        from_csv(tmp_path / name)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


ROWS = {
    "missing file": ("gone.png,x", "t.csv: row 2 (line 3): ", "gone.png does not exist", "missing_file"),
    "folder": ("folder.png,x", "row 2 (line 3)", "folder.png cannot be read (a folder)", "broken_picture"),
    "no path": (",x", "row 2 (line 3)", "the path of the picture is empty", "missing_file"),
    "leaves the root": ("../red.png,x", "row 2 (line 3)", "leaves the root folder", "broken_row"),
    "absolute": ("/etc/passwd.png,x", "row 2 (line 3)", "leaves the root folder", "broken_row"),
    "kind": ("t.csv,x", "row 2 (line 3)", "ends like neither a picture nor a video", "broken_row"),
    "empty caption": ("blue.png, ", "row 2 (line 3)", "the caption is empty", "empty_caption"),
    "cells": ("blue.png,a, b", "row 2 (line 3)", "3 cells for 2 columns: quote", "broken_row"),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_bad_row_stops_or_is_left_out_and_counted(case, tmp_path):
    row, place, message, cause = ROWS[case]
    pictures(tmp_path)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "t.csv").write_text(f"file,caption\nred.png,a red card\n{row}\ngreen.png,green\n")
    with pytest.raises(DataError) as raised:
        from_csv(tmp_path / "t.csv")
    assert place in str(raised.value)
    assert message in str(raised.value)
    pairs = from_csv(tmp_path / "t.csv", on_bad="skip")
    assert len(pairs) == 2
    assert [sample.cause for sample in pairs.left_out] == [cause]
    assert place in pairs.left_out[0].message
    with pytest.raises(TooManyBadError):
        from_csv(tmp_path / "t.csv", on_bad="skip", max_bad=0)


def test_ids_that_are_given_twice_and_rows_that_repeat(tmp_path):
    pictures(tmp_path)
    (tmp_path / "t.csv").write_text("n,file,caption\n1,red.png,x\n1,blue.png,y\n")
    with pytest.raises(DataError, match=r"row 2 \(line 3\): id '1' is that of .*row 1 \(line 2\) too"):
        from_csv(tmp_path / "t.csv", id="n")
    assert len(from_csv(tmp_path / "t.csv")) == 2
    (tmp_path / "t.csv").write_text("file,caption\nred.png,x\nred.png, x\n")
    assert (len(from_csv(tmp_path / "t.csv")), from_csv(tmp_path / "t.csv").repeated) == (1, 1)
