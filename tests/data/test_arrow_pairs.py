"""The table behind JSON sources: when it is made, what it holds, and what happens where it cannot be made."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import datasets
import pytest

from embedrl.data.arrow_pairs import make_side
from embedrl.data.formats import JsonlSource, MMEBSource
from embedrl.errors import DataError


def pair(text="q", **changes):
    return {"id": "p", "query": {"text": text}, "target": {"text": "t"}, **changes}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "set.jsonl"


def open_rows(path, *rows, cache=None):
    if rows:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return JsonlSource(str(path), cache_dir=str(cache or path.parent / "cache"))


def tables(path):
    return sorted((path.parent / "cache").iterdir())


def test_the_table_follows_the_file(path):
    first = open_rows(path, pair())
    (made,) = tables(path)
    stamp = made.stat().st_mtime_ns
    assert open_rows(path)[0] == first[0]
    assert made.stat().st_mtime_ns == stamp
    assert open_rows(path, pair("another text"))[0].query.text == "another text"
    assert len(tables(path)) == 2
    assert first[0].query.text == "q"


def test_two_formats_of_one_file_have_two_tables(path):
    open_rows(path, pair())
    with pytest.raises(DataError, match=r"every row is broken, the first: row 0 .*'qry' is missing"):
        MMEBSource(str(path), str(path.parent), cache_dir=str(path.parent / "cache"))
    assert len(tables(path)) == 2


def test_rows_of_several_batches_stay_in_order(path):
    source = open_rows(path, *(pair(f"q{i}", id=str(i)) for i in range(700)))
    assert len(source) == 700
    assert [(source[i].id, source[i].query.text) for i in range(700)] == [(str(i), f"q{i}") for i in range(700)]


def test_several_may_make_it_at_once(path):
    path.write_text("".join(json.dumps(pair(f"q{i}")) + "\n" for i in range(400)))
    with ThreadPoolExecutor(6) as pool:
        sources = list(pool.map(lambda _: open_rows(path), range(6)))
    assert {source[399].query.text for source in sources} == {"q399"}
    assert len(tables(path)) == 1


def test_rows_are_not_kept_as_python_objects(path):
    source = open_rows(path, *(pair("x" * 1000) for _ in range(3000)))
    sent = pickle.dumps(source)
    assert len(sent) < 10_000
    assert pickle.loads(sent)[2999] == source[2999]


def test_surrogates_do_not_break_the_table(path):
    path.write_text('{"id": "p", "query": {"text": "a\\ud800b"}, "target": {"text": "t"}}')
    assert open_rows(path)[0].query.text == "a?b"


def test_a_side_is_stored_without_outer_spaces():
    assert make_side(" a ", ["x.png"], tcot=" c\n") == {
        "text": "a",
        "images": ["x.png"],
        "frames": [],
        "tcot": "c",
        "fps": 2.0,
        "gold": "",
    }


def test_a_long_name_fits_the_file_system(path):
    for name in ("x" * 240, "字" * 80):
        long = path.with_name(f"{name}.jsonl")
        assert open_rows(long, pair())[0].query.text == "q"


@pytest.mark.parametrize("text", ['[{"a": 1}, {"a": 2]', '{"id": 1}\nhello'])
def test_a_mistake_leaves_no_table(path, text):
    path.write_text(text)
    with pytest.raises(DataError, match=r"set\.jsonl: row 1, line \d, character \d+: not JSON"):
        open_rows(path)
    assert tables(path) == []


@pytest.mark.parametrize("text", ["", "[]"])
def test_no_rows(path, text):
    path.write_text(text)
    with pytest.raises(DataError, match=r"set\.jsonl holds no rows: check the path"):
        open_rows(path)


@pytest.mark.parametrize("name", ["none.jsonl", "set.jsonl/x", "x" * 300])
def test_a_file_that_is_not_there(path, name):
    path.touch()
    with pytest.raises(DataError, match=r"does not exist or cannot be read \(.*\): check the path of the data set"):
        JsonlSource(str(path.parent / name), root=str(path.parent), cache_dir=str(path.parent / "cache"))


@pytest.mark.parametrize("below", ["", "folder"])
def test_a_cache_that_cannot_be_written_names_place_and_cure(path, monkeypatch, below):
    file = path.with_name("file")
    file.touch()
    cure = r"give cache_dir, or set HF_DATASETS_CACHE to, a folder that can be written and has room$"
    with pytest.raises(DataError, match=rf"^set: cannot write the table of .*set\.jsonl below {file}.*: {cure}"):
        open_rows(path, pair(), cache=file / below)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", file / below)
    with pytest.raises(DataError, match=rf"below {file}.*: {cure}"):
        JsonlSource(str(path))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_a_table_that_was_cut_off_is_made_again(path, share, capsys):
    open_rows(path, pair())
    (made,) = tables(path)
    whole = made.read_bytes()
    made.write_bytes(whole[: int(share * len(whole))])
    assert open_rows(path)[0].query.text == "q"
    assert f"{made}: broken (" in capsys.readouterr().err
    assert made.read_bytes() == whole
